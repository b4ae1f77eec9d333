"""The options that every run has."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxmodels.typing import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is made; none of these says what is claimed."""

    out: Path | None = None
    """The run's folder; a run that is there goes on. Default: runs/EXPERIMENT/DATE-TIME."""
    seed: int = 0
    """Initial params, order of the data and dropout follow from it."""
    mesh: str = "data=-1"
    """Devices by axis, such as data=4,fsdp=2; -1 for the rest."""
    precision: Literal["f32", "bf16"] = "f32"
    """What the model computes in; params stay float32."""
    accumulate: int = 1
    """Parts in which a batch's gradient is computed, to save memory."""
    steps_per_call: int = 1
    """Steps per dispatch; more is faster for small models."""
    on_nan: Literal["stop", "skip"] = "stop"
    """At a loss that is not finite: stop the run, or skip that update."""
    eval_every: int | None = None
    """Steps between evaluations. Default: a tenth of the run."""
    save_every: int | None = None
    """Steps between checkpoints. Default: a tenth of the run."""
    keep: int = 2
    """How many of the newest checkpoints stay, beside the best."""
    log_every: int | None = None
    """Steps that a line of metrics.jsonl averages. Default: a hundredth of the run."""
    compilation_cache: str = "auto"
    """Folder of compiled programs; auto: in the user's cache folder; off: none."""
    coordinator: str | None = None
    """host:port of process 0, if several processes train together and no cluster says so."""
    processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """The number of this one, from 0."""

    def __post_init__(self) -> None:
        counts = "accumulate", "steps_per_call", "eval_every", "save_every", "keep", "log_every"
        for name in counts:
            self._check_positive(name)

    def interval(self, name: str, steps: int, parts: int) -> int:
        """The interval of that name, or its default: a `parts`-th of the run."""
        return getattr(self, name) or max(1, steps // parts)

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is a positive number; got {value}")
