"""Logging of metrics during a run: `metrics.jsonl`, TensorBoard events, progress."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.report.events import Events
from jaxmodels.report.progress import Bar, Lines, on_terminal

METRICS = "metrics.jsonl"


class Log:
    """A context that logs the metrics of a run and shows its progress."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        total: int,
        unit: str = "examples",
        per_step: int = 1,
        every: float | None = None,
    ):
        """Open the files and show the empty bar.

        `total` is the last step; `per_step` the `unit`s (examples, tokens) that a step consumes.
        `every` is the time between two reports of progress in seconds: by default 0.25 on a
        terminal, 10 in a log file.
        """
        self.path = Path(folder) / METRICS
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._total = total
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by __exit__
        self._events = Events(self.path.parent / "tensorboard")
        self._display = (Bar if on_terminal() else Lines)(total, unit, per_step, every)
        self._due = 0.0

    def __enter__(self) -> "Log":
        """Nothing more to open."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the files and give the terminal back."""
        self._display.close()
        self._events.close()
        self._file.close()

    def resume(self, step: int) -> None:
        """Drop lines beyond `step`, and a last line that a kill cut short.

        TensorBoard hides events beyond `step`.
        """
        self._file.close()
        kept = [line for line in _lines(self.path) if _step(line) in range(step + 1)]
        new = self.path.with_suffix(".tmp")
        new.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(new, self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by __exit__
        self._events.resume(step)

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Record the scalars of a step; those that are not finite become `null` in the file."""
        now = time.time()
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        line = json.dumps({"step": int(step), "time": round(now, 3), **finite}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()
        self._events.write(int(step), now, values)

    def progress(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Show progress; call it every step: it reads `scalars` only when a report is due."""
        now = time.monotonic()
        if now >= self._due or step >= self._total:
            self._due = now + self._display.show(int(step), now, scalars)

    def message(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._display.message(text)


def read_metrics(folder: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read `(steps, values)` by name, steps ascending; `"time"` is in seconds since the epoch.

    A value that was not finite is read as NaN. Where a step was written twice, the later value
    counts, except for `time`: there each line keeps its own. A last line that was cut short by a
    kill is left out; a broken line elsewhere is a ValueError.
    """
    path = Path(folder) / METRICS
    series: dict[str, dict[Any, float]] = {}
    for number, line in enumerate(_lines(path)):
        step = _step(line)
        if step is None:
            raise ValueError(f"{path}, line {number + 1}: expected a JSON object with a step")
        for name, value in json.loads(line).items():
            key = (step, number) if name == "time" else (step, 0)
            series.setdefault(name, {})[key] = math.nan if value is None else value
    series.pop("step", None)
    return {name: _arrays(values) for name, values in series.items()}


def _arrays(values: dict[Any, float]) -> tuple[np.ndarray, np.ndarray]:
    ordered = sorted(values.items())
    steps = np.array([key[0] for key, _ in ordered], np.int64)
    return steps, np.array([value for _, value in ordered], np.float64)


def _lines(path: Path) -> list[str]:
    """The complete lines: what follows the last line end was cut short."""
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _step(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
