"""What a run has cost so far, over all its starts: time of devices, operations, energy."""

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
from jaxmodels.experiment.energy import Meter, meter
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import write_json
from jaxmodels.train import State, update

COST = "cost.json"
EVERY = 10.0
"""Seconds between two entries: what a kill takes from the account, and far below the 20 minutes
after which RAPL's counters begin again at zero under load."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """The account, as it stands in the run's folder.

    Attributes:
        starts: how often the run was begun or gone on with.
        device_seconds: seconds times devices, of training, evaluation, compilation and waiting;
            also those of steps that were lost and taken again.
        metered: the device-seconds in which energy was measured.
        joules: by counter, of the machine of process 0.
        absent: whose energy the last start could not measure there, and why.
    """

    starts: int = 0
    device_seconds: float = 0.0
    metered: float = 0.0
    joules: Mapping[str, float] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Ledger:
    """Keeps the account; its clock runs from when it is made."""

    def __init__(self, folder: Path, devices: Sequence[Any], counters: Meter | None = None) -> None:
        """Read what earlier starts have spent; the counters are those of the machine if absent.

        Raises:
            UserError: the account in the folder cannot be read.
        """
        self._path = folder / COST
        self._before = _read(self._path)
        self._devices = len(devices)
        self._meter = meter(devices) if counters is None else counters
        self._metered = 0.0
        self._begun = time.monotonic()
        self._due = self._begun + EVERY

    def tick(self) -> None:
        """Enter what was spent, if it is time; costs next to nothing otherwise."""
        if time.monotonic() >= self._due:
            self.enter()

    def enter(self) -> Spent:
        """Write what has been spent until now, and return it."""
        spent = self._now()
        write_json(self._path, dataclasses.asdict(spent))
        self._due = time.monotonic() + EVERY
        return spent

    def _now(self) -> Spent:
        joules = self._meter.read()
        seconds = self._devices * (time.monotonic() - self._begun)
        if self._meter.running:
            self._metered = seconds
        before = self._before
        return Spent(
            before.starts + 1,
            before.device_seconds + seconds,
            before.metered + self._metered,
            {
                name: before.joules.get(name, 0.0) + joules.get(name, 0.0)
                for name in {**before.joules, **joules}
            },
            self._meter.absent,
        )


def account(
    experiment: Experiment, state: State, spent: Spent, mesh: Mesh, price: float | None
) -> report.Costs:
    """What the page and the last lines on the terminal say; counts a step's operations for it.

    `experiment` is configured, `state` where the run ends.
    """
    counted = step_operations(experiment, state)
    device = mesh.devices.flat[0]
    chip = chips.device_chip(device)
    return report.Costs(
        devices=mesh.size,
        kind=device.device_kind,
        starts=spent.starts,
        device_seconds=spent.device_seconds,
        steps=int(state.step),
        operations=counted.total,
        products=counted.matmul,
        unknown=counted.unknown,
        peak=None if chip is None else chip.flops,
        joules=spent.joules,
        absent=spent.absent,
        metered=spent.metered,
        processes=jax.process_count(),
        price=price,
    )


def step_operations(experiment: Experiment, state: State) -> flops.Counted:
    """Of one step with the whole batch; traces it once more, and computes nothing."""
    parts = experiment.prepared_objective, experiment.optimizer, experiment.grad
    step = update(*parts, experiment.trainable)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return flops.count(step, shapes, experiment.train.example)


def _read(path: Path) -> Spent:
    if not path.exists():
        return Spent()
    try:
        return Spent(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is not what a run writes; remove it to begin the account of costs anew"
        ) from None
