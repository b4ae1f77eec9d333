"""Recording a run: training scalars, metrics, progress and cost."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmodels import report
from jaxmodels.experiment.cost import Ledger, Spent
from jaxmodels.metric import Metric


class Recorder:
    """Means of the training scalars over windows of steps, metrics, and progress.

    Only process 0 writes; on the others all of this does nothing. Leaving the context writes the
    window that is open.
    """

    def __init__(
        self, folder: Path, total: int, batch_size: int, every: int, devices: Iterable[Any]
    ) -> None:
        """Windows end at the multiples of `every`; `total` and `batch_size` are for the bar.

        `devices` are those whose time is accounted for.
        """
        self.first_step: float | None = None
        self._begun = time.perf_counter()
        self._every = every
        self._seen = 0
        self._window: list[dict[str, float]] = []
        first = jax.process_index() == 0
        self._ledger = Ledger(folder, list(devices)) if first else None
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
            # After an error, which a full disk may be, the last regular entry stands.
            self.spent()

    def spent(self) -> Spent | None:
        """Record what the run has spent until now, and return it; None but on process 0."""
        return self._ledger.enter() if self._ledger else None

    def resume(self, step: int) -> None:
        """Go on after `step`; what was written beyond it is dropped."""
        if self._log:
            self._log.resume(step)

    def message(self, text: str) -> None:
        """Print a line."""
        if self._log:
            self._log.message(text)

    def scalars(self, n: int, scalars: dict[str, np.ndarray]) -> None:
        """Take in the scalars of a call that ended with step n."""
        if self.first_step is None:
            self.first_step = time.perf_counter() - self._begun
        if not self._log or not self._ledger:
            return
        self._ledger.tick()
        self._log.progress(n, {name: values[-1] for name, values in scalars.items()})
        for i in range(steps := len(scalars["loss"])):
            self._seen = n - steps + i + 1
            self._window.append({name: float(values[i]) for name, values in scalars.items()})
            if self._seen % self._every == 0:
                self.end_window()

    def end_window(self) -> None:
        """Write the means since the last window; at each checkpoint, where a restart would begin.

        Only what is finite counts: steps that were skipped are not in the mean.
        """
        if self._log and self._window:
            window, self._window = self._window, []
            means = {name: _mean_of_finite([step[name] for step in window]) for name in window[0]}
            self._log.write(self._seen, {f"train/{name}": mean for name, mean in means.items()})

    def metrics(self, n: int, metrics: Mapping[str, Any], types: Mapping[str, Metric]) -> None:
        """Write down an evaluation's single numbers."""
        single = {name: value for name, value in metrics.items() if np.ndim(value) == 0}
        written = (f"{k} {types.get(k, Metric()).format(v)}" for k, v in single.items())
        if self._log:
            self._log.write(n, single)
            self._log.message(f"step {n:,}  " + "  ".join(written))


def _mean_of_finite(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
