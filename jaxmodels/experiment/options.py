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
    """Folder of the run, new or to resume; also gs://BUCKET/... (default: runs/NAME/DATE-TIME)."""
    start: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder of another run whose trained params this run starts from."""
    evaluate: Annotated[bool, FlagCreatePairsOff] = False
    """Do not train: evaluate the initial or restored params and write the report."""
    seed: int = 0
    """Random seed of initial params, data order and dropout."""
    mesh: str = "data=-1"
    """Device mesh, such as data=4,fsdp=2; -1 takes all remaining devices."""
    precision: Literal["f32", "bf16"] = "f32"
    """Dtype of computation (mixed precision with bf16); params stay float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """Rematerialisation (gradient checkpointing): none; all but matrix products; full."""
    accumulate: int = 1
    """Gradient accumulation: number of parts that a batch is split into, to save memory."""
    steps_per_call: int = 1
    """Training steps per jit call; more is faster for small models."""
    plan: Annotated[str | None, arg(metavar="TARGET", help_behavior_hint="")] = None
    """Do not train: compile for devices such as v5e:4x4 or cpu:8, print memory and time."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If the loss is NaN or infinite: stop the run, or skip that update."""
    eval_every: _Interval = None
    """Steps between evaluations (default: a tenth of the run)."""
    save_every: _Interval = None
    """Steps between checkpoints (default: a tenth of the run)."""
    log_every: _Interval = None
    """Steps averaged in a line of metrics.jsonl (default: a hundredth of the run)."""
    keep: int = 2
    """Number of newest checkpoints to keep, besides the best one."""
    price: Annotated[float | None, arg(metavar="AMOUNT", help_behavior_hint="")] = None
    """Price of one device per hour, to report the cost of the run."""
    compilation_cache: Annotated[str, arg(metavar="FOLDER")] = "auto"
    """Where to cache compiled programs; auto: in the user's cache folder; off: nowhere."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Address of process 0, for several processes where jax cannot detect the cluster."""
    processes: Annotated[int | None, arg(help_behavior_hint="")] = None
    """Number of processes."""
    process_id: Annotated[int | None, arg(help_behavior_hint="")] = None
    """Index of this process, from 0."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} must be positive; got {value}")
        if self.evaluate and self.plan is not None:
            raise UserError("--evaluate and --plan cannot be given together: a plan runs nothing")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise UserError(f"--price must be an amount per device and hour; got {self.price}")
        if not 0 <= self.seed < 2**32:  # jax.random.key reads 32 bits
            raise UserError(f"--seed must be between 0 and 2**32 - 1; got {self.seed}")

    def interval(self, name: str, steps: int, parts: int) -> int:
        """The interval of that name in steps, by default a `parts`-th of the run."""
        return getattr(self, name) or max(1, steps // parts)
