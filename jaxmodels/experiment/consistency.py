"""Facts that must be equal on all processes of a run, else they would train different things.

They are compared by `train.collective.check_processes_agree`.
"""

import dataclasses
import importlib.metadata
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.folder import PACKAGES
from jaxmodels.experiment.options import Options

PER_PROCESS = "coordinator", "process_id", "compilation_cache", "data_dir"
"""Options that may differ between processes."""


def describe_command(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], options: Options
) -> dict[str, str]:
    """The experiment's name, its arguments and the versions of packages."""
    given = {**hyperparameters, **dataclasses.asdict(options)}
    return {
        "experiment": make.__name__,
        **{name: repr(value) for name, value in given.items() if name not in PER_PROCESS},
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def describe_data(experiment: Experiment) -> dict[str, str]:
    """Batch shapes, numbers of examples, and checksums of the experiment's files."""
    parts = {"train": experiment.train, **experiment.evaluate}
    return {
        "batch": str(experiment.train.example),
        **{f"examples of {name}": f"{len(part.split):,}" for name, part in parts.items()},
        **{name: f"CRC {zlib.crc32(text.encode()):08x}" for name, text in experiment.files.items()},
    }
