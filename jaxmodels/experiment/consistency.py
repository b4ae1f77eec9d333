"""What processes that train together must have in common: else they would part, and nobody notice.

Facts by name, for `train.collective.check_same`.
"""

import dataclasses
import importlib.metadata
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.folder import PACKAGES
from jaxmodels.experiment.options import Options

OWN = "coordinator", "process_id", "compilation_cache", "data_dir"
"""What each may be given otherwise: who it is, and where things are."""


def command_facts(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], options: Options
) -> dict[str, str]:
    """The experiment, its arguments, and the packages that compute it."""
    given = {**hyperparameters, **dataclasses.asdict(options)}
    return {
        "experiment": make.__name__,
        **{name: repr(value) for name, value in given.items() if name not in OWN},
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def data_facts(experiment: Experiment) -> dict[str, str]:
    """The data's shapes and numbers, and the contents of files that the run keeps."""
    parts = {"train": experiment.train, **experiment.evaluate}
    return {
        "batch": str(experiment.train.example),
        **{f"examples of {name}": f"{len(part.split):,}" for name, part in parts.items()},
        **{name: f"CRC {zlib.crc32(text.encode()):08x}" for name, text in experiment.files.items()},
    }
