"""From a function's signature to a command line, and from a mistake to one line."""

import dataclasses
import errno
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from jax.experimental.compilation_cache import compilation_cache

from jaxmodels import sharding
from jaxmodels.data import cache
from jaxmodels.errors import UserError
from jaxmodels.experiment import consistency
from jaxmodels.experiment.bucket import Folder
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.folder import open_folder
from jaxmodels.experiment.malloc import keep_freed_memory
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.setup import Setup, set_up
from jaxmodels.experiment.signals import abort_with_peers
from jaxmodels.experiment.training import Outcome, run_in
from jaxmodels.train import Diverged
from jaxmodels.train.checkpoint import SaveFailed
from jaxmodels.train.collective import check_same, on_all

HELP = tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone

NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
"""A full disk, a used-up quota, a limit on the size of files."""


def run(make: Callable[..., Experiment], argv: Sequence[str] | None = None) -> Outcome:
    """Make the experiment that the command line asks for, and train it.

    Args:
        make: its arguments are the hyperparameters; its docstring is the help.
        argv: the arguments; the process's own if absent.

    Raises:
        SystemExit: 0 after `--plan`; 2 for a mistake of the user's; 1 if the loss is not finite
            or a disk is full; 143 or 130 where SIGTERM or SIGINT stopped the run (of several
            processes: 143 of all). A message is on stderr. Where another process is lost, see
            `signals.abort_with_peers`.
    """
    hyperparameters, options = parse(make, argv)
    try:
        if options.plan is not None:
            check_steps(hyperparameters)
            # Imported here: a run needs none of it.
            from jaxmodels.experiment.planning import print_plan

            print_plan(make, hyperparameters, options)
            raise SystemExit(0)
        keep_freed_memory()
        sharding.initialize_distributed(options.coordinator, options.processes, options.process_id)
        use_compilation_cache(options.compilation_cache)
        with abort_with_peers():
            setup, folder = begin(make, hyperparameters, options)
        return run_in(setup, folder)
    except (Diverged, SaveFailed) as error:
        raise SystemExit(complain(error, status=1)) from None
    except UserError as error:
        raise SystemExit(complain(error, status=2)) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise SystemExit(complain(error, status=1)) from None


def parse(
    make: Callable[..., Experiment], argv: Sequence[str] | None = None
) -> tuple[dict[str, Any], Options]:
    """The hyperparameters and options in `argv`."""

    @functools.wraps(make)
    def record(**hyperparameters: Any) -> dict[str, Any]:
        return hyperparameters

    @dataclasses.dataclass
    class Command:
        experiment: Annotated[dict[str, Any], tyro.conf.arg(constructor=record)]
        run: Options

    description = sys.modules[make.__module__].__doc__
    command = tyro.cli(Command, args=argv, description=description, config=HELP)
    return command.experiment, command.run


def begin(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], options: Options
) -> tuple[Setup, Folder]:
    """Make the experiment and open its folder; what is wrong on one process is an error on all."""
    # First, for it also connects them: to read the data may take some of them long.
    check_same(consistency.command_facts(make, hyperparameters, options))
    check_steps(hyperparameters)
    setup = on_all(lambda: set_up(make(**hyperparameters), options))
    check_same(consistency.data_facts(setup.experiment))
    return setup, open_folder(make, hyperparameters, setup.experiment, options)


def check_steps(hyperparameters: Mapping[str, Any]) -> None:
    """Raise `UserError` for no steps: schedules would, with less to say."""
    steps = hyperparameters.get("steps", 1)
    if steps < 1:
        raise UserError(f"--steps is a positive number; got {steps}")


def complain(error: Exception, status: int) -> int:
    """Print the error and its notes, less jax's on its tracebacks; give the exit status back."""
    notes = [n for n in getattr(error, "__notes__", ()) if "JAX_TRACEBACK_FILTERING" not in n]
    print(f"{Path(sys.argv[0]).name}: {error}", *notes, sep="\n", file=sys.stderr)
    return status


def use_compilation_cache(where: str) -> None:
    """Keep compiled programs in a folder, so that a second start need not compile."""
    folder = cache.cache_dir() if where == "auto" else None if where == "off" else Path(where)
    jax.config.update("jax_compilation_cache_dir", folder and str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # If something was compiled before, jax has settled on not using a cache, or on another folder.
    compilation_cache.reset_cache()
