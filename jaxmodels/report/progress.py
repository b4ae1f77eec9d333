"""Progress of a run: a bar on a terminal, lines in a log file."""

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

from jaxmodels.metric import Metric

SHOWN = {"loss": Metric(), "error": Metric("%"), "accuracy": Metric("%")}
"""Scalars that are shown in a progress line, and their format."""


def on_terminal() -> bool:
    """Whether standard output is a terminal that can redraw a line."""
    if not sys.stdout.isatty():
        return False
    from rich.console import Console

    return not Console().is_dumb_terminal


class StepRate:
    """Steps per second over the last few calls, so that a compilation is soon forgotten."""

    def __init__(self, calls: int):
        """Remember that many calls."""
        self._seen: deque[tuple[float, int]] = deque(maxlen=calls)

    def __call__(self, step: int, now: float) -> float | None:
        """Count a call; None until two calls with different steps were seen."""
        self._seen.append((now, step))
        time, first = self._seen[0]
        return (step - first) / (now - time) if step > first and now > time else None


class Lines:
    """One line each `every` seconds; the first two come at once and after two seconds."""

    def __init__(self, total: int, unit: str, per_step: int, every: float | None):
        """Print nothing yet."""
        self._total, self._unit, self._per_step = total, unit, per_step
        self._every = 10.0 if every is None else every
        self._rate = StepRate(calls=7)
        self._shown = 0

    def show(self, step: int, now: float, scalars: Mapping[str, Any]) -> float:
        """Print the line; the result is the time until the next one is due, in seconds."""
        rate = self._rate(step, now)
        facts = _facts(step, self._total, scalars, rate, self._unit, self._per_step)
        self.message(f"step {facts}")
        self._shown += 1
        return self._every if self._shown > 1 else min(2.0, self._every)

    def message(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is left open."""


class Bar:
    """A bar at the bottom of the terminal, drawn by rich in the caller's thread."""

    def __init__(self, total: int, unit: str, per_step: int, every: float | None):
        """Draw the empty bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._total, self._unit, self._per_step = total, unit, per_step
        self._every = 0.25 if every is None else every
        self._rate = StepRate(calls=40)
        console = Console()
        bar = BarColumn(24 if console.width >= 100 else 8)
        text = TextColumn("{task.fields[facts]}", markup=False)
        self._progress = Progress(bar, text, console=console, auto_refresh=False)
        self._task = self._progress.add_task("", total=total, facts=f"0/{total:,}  compiling")
        self._progress.start()

    def show(self, step: int, now: float, scalars: Mapping[str, Any]) -> float:
        """Draw the bar; the result is the time until it is due again, in seconds."""
        rate = self._rate(step, now)
        facts = _facts(step, self._total, scalars, rate, self._unit, self._per_step)
        self._progress.update(self._task, completed=step, facts=facts, refresh=True)
        return self._every

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as `0:42` or `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _facts(
    step: int, total: int, scalars: Mapping[str, Any], rate: float | None, unit: str, per_step: int
) -> str:
    """In the order of importance: a narrow terminal cuts the end."""
    words = [f"{step:,}/{total:,}"]
    if rate is not None and step < total:
        words.append(f"{duration((total - step) / rate)} left")
    words += _values(scalars)
    if rate is not None:
        words.append(f"{rate * per_step:,.0f} {unit}/s")
    return "  ".join(words)


def _values(scalars: Mapping[str, Any]) -> list[str]:
    """The scalars worth a place in a line; `train/loss` counts as `loss`."""
    short = {name.rpartition("/")[2]: float(value) for name, value in scalars.items()}
    return [f"{name} {_value(kind, short[name])}" for name, kind in SHOWN.items() if name in short]


def _value(kind: Metric, value: float) -> str:
    return kind.format(value) if kind.unit else f"{value:.4f}"
