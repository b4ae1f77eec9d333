"""Cost of a run over all its starts: device time, FLOPs, energy."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxmodels import chips, flops, report
from jaxmodels.errors import UserError
from jaxmodels.experiment.energy import Meter, open_meter
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import is_empty, write_json
from jaxmodels.train import State, update

COST = "cost.json"
WRITE_INTERVAL = 10.0
"""Seconds between two writes of `cost.json`: at most this is lost when a run is killed. It is far
below the 20 minutes after which RAPL's counters wrap around under load."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Resources used by a run so far, as stored in its `cost.json`.

    Attributes:
        starts: how often the run was started or resumed.
        device_seconds: seconds times devices, of training, evaluation, compilation and waiting;
            steps that were lost and repeated count each time.
        metered: the device-seconds during which energy was measured.
        joules: energy by counter, on the machine of process 0.
        unmeasured: devices whose energy the last start could not measure, and why.
    """

    starts: int = 0
    device_seconds: float = 0.0
    metered: float = 0.0
    joules: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unmeasured: Mapping[str, str] = dataclasses.field(default_factory=dict)


class UsageTracker:
    """Measures the cost of a run from construction on, and writes it to `cost.json`."""

    def __init__(self, folder: Path, devices: Sequence[Any], counters: Meter | None = None) -> None:
        """Read what earlier starts used; `counters` defaults to those of this machine.

        Raises:
            UserError: the folder's `cost.json` cannot be read.
        """
        self._path = folder / COST
        self._before = _read(self._path)
        self._devices = len(devices)
        self._meter = open_meter(devices) if counters is None else counters
        self._metered = 0.0
        self._start_time = time.monotonic()
        self._due = self._start_time + WRITE_INTERVAL

    def tick(self) -> None:
        """Call `record` if `WRITE_INTERVAL` has passed."""
        if time.monotonic() >= self._due:
            self.record()

    def record(self) -> Usage:
        """Write what has been used until now, and return it."""
        usage = self._now()
        write_json(self._path, dataclasses.asdict(usage))
        self._due = time.monotonic() + WRITE_INTERVAL
        return usage

    def _now(self) -> Usage:
        joules = self._meter.read()
        seconds = self._devices * (time.monotonic() - self._start_time)
        if self._meter.running:
            self._metered = seconds
        before = self._before
        return Usage(
            before.starts + 1,
            before.device_seconds + seconds,
            before.metered + self._metered,
            {
                name: before.joules.get(name, 0.0) + joules.get(name, 0.0)
                for name in {**before.joules, **joules}
            },
            self._meter.unmeasured,
        )


def compute_costs(
    experiment: Experiment, state: State, usage: Usage, mesh: Mesh, price: float | None
) -> report.Costs:
    """The costs to report, with the FLOPs of a step counted.

    `experiment` must be configured by the run's options; `state` is the last one.
    """
    counted = count_step_flops(experiment, state)
    device = mesh.devices.flat[0]
    chip = chips.device_chip(device)
    return report.Costs(
        devices=mesh.size,
        kind=device.device_kind,
        starts=usage.starts,
        device_seconds=usage.device_seconds,
        steps=int(state.step),
        step_flops=counted.total,
        step_matmul_flops=counted.matmul,
        uncounted=counted.uncounted,
        peak_flops=None if chip is None else chip.flops,
        joules=usage.joules,
        unmeasured=usage.unmeasured,
        metered=usage.metered,
        processes=jax.process_count(),
        price=price,
    )


def count_step_flops(experiment: Experiment, state: State) -> flops.FlopCount:
    """Count the FLOPs of one step on the whole batch; traces the step, computes nothing."""
    parts = experiment.prepared_objective, experiment.optimizer, experiment.grad
    step = update(*parts, experiment.trainable)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return flops.count(step, shapes, experiment.train.example)


def _read(path: Path) -> Usage:
    if not path.exists() or is_empty(path, "costs are counted from zero"):
        return Usage()
    try:
        return Usage(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is not a file that a run has written; remove it to count costs from zero"
        ) from None
