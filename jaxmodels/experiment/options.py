"""The command-line options of every run."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from jaxmodels.errors import UserError

COUNTS = "accumulate", "steps_per_call", "eval_every", "save_every", "keep", "log_every"

_Interval = Annotated[int | None, arg(metavar="STEPS", help_behavior_hint="")]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run the experiment: folder, devices, precision, intervals."""

    out: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The run's folder, new or to resume; also gs://... (default: runs/NAME/DATE-TIME)."""
    start: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Begin with the params of another run, in its folder."""
    evaluate: Annotated[bool, FlagCreatePairsOff] = False
    """Train nothing: evaluate what the run begins with, and write the page."""
    seed: int = 0
    """Of the initial params, the order of the data, and dropout."""
    mesh: str = "data=-1"
    """Devices by axis, such as data=4,fsdp=2; -1 stands for the rest."""
    precision: Literal["f32", "bf16"] = "f32"
    """Dtype that the model computes in; params stay float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """Activations computed again for the gradient: none, all but dense layers' results, all."""
    accumulate: int = 1
    """Gradient accumulation: parts that a batch is taken in, to save memory."""
    steps_per_call: int = 1
    """Steps per dispatch; more is faster for small models."""
    plan: Annotated[str | None, arg(metavar="TARGET", help_behavior_hint="")] = None
    """Train nothing: compile for v5e:4x4, v5p:8x8x16, cpu:8, ..., and print memory and time."""
    on_nan: Literal["stop", "skip"] = "stop"
    """At a loss that is not finite: stop the run, or skip that update."""
    eval_every: _Interval = None
    """Between evaluations (default: a tenth of the run)."""
    save_every: _Interval = None
    """Between checkpoints (default: a tenth of the run)."""
    log_every: _Interval = None
    """Between lines of metrics.jsonl, which average them (default: a hundredth of the run)."""
    keep: int = 2
    """Newest checkpoints that are kept, beside the best."""
    price: Annotated[float | None, arg(metavar="AMOUNT", help_behavior_hint="")] = None
    """Price of one device for an hour, to report the cost."""
    compilation_cache: Annotated[str, arg(metavar="FOLDER")] = "auto"
    """Cache of compiled programs; auto: in the user's cache folder, off: none."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Address of process 0, where no cluster tells the processes of each other."""
    processes: Annotated[int | None, arg(help_behavior_hint="")] = None
    """Number of processes."""
    process_id: Annotated[int | None, arg(help_behavior_hint="")] = None
    """Number of this process, from 0."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is a positive number; got {value}")
        if self.evaluate and self.plan is not None:
            raise UserError("--evaluate and --plan exclude each other: a plan evaluates nothing")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise UserError(f"--price is the amount for a device and hour; got {self.price}")
        if not 0 <= self.seed < 2**32:  # jax.random.key sees no more of it
            raise UserError(f"--seed is a number from 0 to 2**32 - 1; got {self.seed}")

    def interval(self, name: str, steps: int, parts: int) -> int:
        """The interval of that name in steps, by default a `parts`-th of the run."""
        return getattr(self, name) or max(1, steps // parts)
