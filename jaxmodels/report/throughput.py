"""Throughput of a run: examples per second, time per step."""

import numpy as np

from jaxmodels.report.charts import Line, chart
from jaxmodels.report.page import Section
from jaxmodels.report.progress import duration
from jaxmodels.report.tables import facts


def throughput(
    steps: np.ndarray,
    times: np.ndarray,
    per_step: int = 1,
    unit: str = "examples",
    first_step: float | None = None,
    compilation: float | None = None,
) -> Section:
    """Draw `unit`s per second over the run from `read_metrics(folder)["time"]`.

    Times are in seconds; `first_step` is that from the program's start to the end of its first
    step. Between the first and the last line of one step lies an evaluation, which is left out.
    """
    ends, passed, seconds = _windows(steps, times)
    rows = {
        "first step after": None if first_step is None else f"{first_step:.1f} s",
        "of which compilation": None if compilation is None else f"{compilation:.1f} s",
    }
    panel = ""
    if ends.size:
        step_time = float(np.median(seconds / passed))
        rows["median step"] = _milliseconds(step_time)
        rows["median rate"] = f"{per_step / step_time:,.0f} {unit}/s"
        rows["whole run"] = duration(float(times.max() - times.min()))
        panel = _panel(ends, per_step * passed / seconds, unit)
    return Section("Throughput", panel + facts({k: v for k, v in rows.items() if v is not None}))


def _windows(steps: np.ndarray, times: np.ndarray, limit: int = 30) -> tuple[np.ndarray, ...]:
    """Where each of at most `limit` stretches ends, how many steps and seconds it is long.

    Single lines are too near to each other: they are written in bursts, when values arrive.
    """
    unique, first = np.unique(steps, return_index=True)
    last = np.r_[first[1:], len(steps)] - 1
    seconds = times[first[1:]] - times[last[:-1]]
    groups = np.array_split(np.arange(len(seconds)), min(limit, max(len(seconds), 1)))
    passed = np.array([np.diff(unique)[g].sum() for g in groups])
    total = np.array([seconds[g].sum() for g in groups])
    good = total > 0
    return np.array([unique[1:][g].max(initial=0) for g in groups])[good], passed[good], total[good]


def _panel(ends: np.ndarray, rates: np.ndarray, unit: str) -> str:
    svg = chart([Line("", ends, rates)], "step", form=lambda v: f"{v:,.0f}")
    return (
        f'<div class="panels"><figure><figcaption>speed<span>, {unit} per second</span>'
        f"</figcaption>{svg}</figure></div>"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
