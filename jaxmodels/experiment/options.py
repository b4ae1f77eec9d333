"""The options that every run has."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from jaxmodels.errors import UserError

COUNTS = "accumulate", "steps_per_call", "eval_every", "save_every", "keep", "log_every"

_Interval = Annotated[int | None, arg(metavar="STEPS", help_behavior_hint="")]


@dataclasses.dataclass(frozen=True)
class Options:
    """How it is run; on any devices, with any of these, the claim is the same."""

    out: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The run's folder, new or to go on with; also gs://... (default: runs/NAME/DATE-TIME)."""
    seed: int = 0
    """Initial params, order of the data and dropout follow from it."""
    mesh: str = "data=-1"
    """Devices by axis, such as data=4,fsdp=2; -1 for the rest."""
    precision: Literal["f32", "bf16"] = "f32"
    """What the model computes in; params stay float32."""
    saved: Literal["everything", "dots", "nothing"] = "everything"
    """What is kept for the gradient; less takes less memory and more time."""
    accumulate: int = 1
    """Parts in which a batch's gradient is computed, to save memory."""
    steps_per_call: int = 1
    """Steps per dispatch; more is faster for small models."""
    plan: Annotated[str | None, arg(metavar="TARGET", help_behavior_hint="")] = None
    """Train nothing: compile for v5e:4x4, v5p:8x8x16, cpu:8, ..., and tell what it would take."""
    on_nan: Literal["stop", "skip"] = "stop"
    """At a loss that is not finite: stop the run, or skip that update."""
    eval_every: _Interval = None
    """Between evaluations (default: a tenth of the run)."""
    save_every: _Interval = None
    """Between checkpoints (default: a tenth of the run)."""
    log_every: _Interval = None
    """That a line of metrics.jsonl averages (default: a hundredth of the run)."""
    keep: int = 2
    """How many of the newest checkpoints stay, beside the best."""
    price: Annotated[float | None, arg(metavar="AMOUNT", help_behavior_hint="")] = None
    """Of a device for an hour: the run then tells what it has cost."""
    compilation_cache: Annotated[str, arg(metavar="FOLDER")] = "auto"
    """Of compiled programs; auto: among the user's caches, off: none."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Of process 0, if several processes train together that no cluster started."""
    processes: Annotated[int | None, arg(help_behavior_hint="")] = None
    """How many they are."""
    process_id: Annotated[int | None, arg(help_behavior_hint="")] = None
    """Which one this is, from 0."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is a positive number; got {value}")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise UserError(f"--price is the amount for a device and hour; got {self.price}")
        if not 0 <= self.seed < 2**32:  # jax.random.key sees no more of it
            raise UserError(f"--seed is a number from 0 to 2**32 - 1; got {self.seed}")

    def interval(self, name: str, steps: int, parts: int) -> int:
        """The interval of that name, or its default: a `parts`-th of the run."""
        return getattr(self, name) or max(1, steps // parts)
