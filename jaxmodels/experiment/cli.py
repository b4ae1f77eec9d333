"""From a function's signature to a command line, and from a mistake to one line."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxmodels import sharding
from jaxmodels.experiment.claim import Experiment
from jaxmodels.experiment.folder import open_folder
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.training import Outcome, train
from jaxmodels.typing import UserError


def run(make: Callable[..., Experiment], argv: Sequence[str] | None = None) -> Outcome:
    """Make the experiment that the command line asks for, and train it.

    Args:
        make: its arguments are the hyperparameters; its docstring is the help.
        argv: the arguments; the process's own if absent.
    """
    hyperparameters, options = parse(make, argv)
    try:
        sharding.start(options.coordinator, options.processes, options.process_id)
        use_compilation_cache(options.compilation_cache)
        experiment = make(**hyperparameters)
        folder = open_folder(make, hyperparameters, options)
        return train(experiment, options, folder)
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(
    make: Callable[..., Experiment], argv: Sequence[str] | None = None
) -> tuple[dict[str, Any], Options]:
    """The hyperparameters and options in `argv`."""

    @functools.wraps(make)
    def record(**hyperparameters: Any) -> dict[str, Any]:
        return hyperparameters

    @dataclasses.dataclass
    class Command:
        hyperparameters: Annotated[dict[str, Any], tyro.conf.arg(constructor=record, name="")]
        options: Annotated[Options, tyro.conf.arg(name="")]

    module = sys.modules[make.__module__]
    command = tyro.cli(Command, args=argv, description=module.__doc__)
    return command.hyperparameters, command.options


def use_compilation_cache(where: str) -> None:
    """Keep compiled programs in a folder, so that a second start need not compile."""
    if where == "off":
        return
    folder = Path(where) if where != "auto" else cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def cache_folder() -> Path:
    """The user's folder of things that can be made again: `JAXMODELS_CACHE`, or the platform's."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAXMODELS_CACHE") or Path(home) / "jaxmodels")
