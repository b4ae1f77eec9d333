"""Recorder of a run: training scalars, metrics, progress and cost."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmodels import report
from jaxmodels.experiment.cost import Usage, UsageTracker
from jaxmodels.metric import Metric


class Recorder:
    """Writes means of training scalars over windows of steps, metrics, progress and cost.

    Only process 0 writes; on other processes every method does nothing. Leaving the context
    writes the last, incomplete window.
    """

    def __init__(
        self, folder: Path, total: int, batch_size: int, every: int, devices: Iterable[Any]
    ) -> None:
        """Windows end at multiples of `every`; `total` and `batch_size` are for the progress bar.

        `devices` are those whose time counts as cost.
        """
        self.first_step: float | None = None
        self._start_time = time.perf_counter()
        self._every = every
        self._last_step = 0
        self._window: list[dict[str, float]] = []
        first = jax.process_index() == 0
        self._usage = UsageTracker(folder, list(devices)) if first else None
        self._log = report.Log(folder, total, per_step=batch_size) if first else None

    def __enter__(self) -> "Recorder":
        if self._log:
            self._log.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._log:
            with self._log:
                self.end_window()
        if exception == (None, None, None):
            # Not after an error, which may be a full disk.
            self.record_cost()

    def record_cost(self) -> Usage | None:
        """Write what the run has used until now, and return it; None except on process 0."""
        return self._usage.record() if self._usage else None

    def resume(self, step: int) -> None:
        """Continue after `step`; lines written beyond it are dropped."""
        if self._log:
            self._log.resume(step)

    def message(self, text: str) -> None:
        """Print a line."""
        if self._log:
            self._log.message(text)

    def add_scalars(self, n: int, scalars: dict[str, np.ndarray]) -> None:
        """Add the scalars of a jit call that ended with step n."""
        if self.first_step is None:
            self.first_step = time.perf_counter() - self._start_time
        if not self._log or not self._usage:
            return
        self._usage.tick()
        self._log.progress(n, {name: values[-1] for name, values in scalars.items()})
        for i in range(steps := len(scalars["loss"])):
            self._last_step = n - steps + i + 1
            self._window.append({name: float(values[i]) for name, values in scalars.items()})
            if self._last_step % self._every == 0:
                self.end_window()

    def end_window(self) -> None:
        """Write the means since the last window; also called before each checkpoint.

        Means are over finite values: skipped steps do not count.
        """
        if self._log and self._window:
            window, self._window = self._window, []
            means = {name: _mean_of_finite([step[name] for step in window]) for name in window[0]}
            self._log.write(
                self._last_step, {f"train/{name}": mean for name, mean in means.items()}
            )

    def write_metrics(
        self, n: int, metrics: Mapping[str, Any], types: Mapping[str, Metric]
    ) -> None:
        """Write and print the metrics of an evaluation that are single numbers."""
        single = {name: value for name, value in metrics.items() if np.ndim(value) == 0}
        written = (f"{k} {types.get(k, Metric()).format(v)}" for k, v in single.items())
        if self._log:
            self._log.write(n, single)
            self._log.message(f"step {n:,}  " + "  ".join(written))


def _mean_of_finite(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
