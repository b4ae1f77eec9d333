"""The command line of an experiment, built from a function's signature with tyro."""

import contextlib
import dataclasses
import errno
import functools
import inspect
import signal
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
from jaxmodels.experiment.signals import abort_with_peers, print_nowhere
from jaxmodels.experiment.training import Outcome, run_setup
from jaxmodels.train import Diverged
from jaxmodels.train.checkpoint import SaveFailed
from jaxmodels.train.collective import check_processes_agree, run_on_all

HELP = tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone

DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
"""Error numbers of a full disk, an exceeded quota, and the limit on file sizes."""
NO_RIGHT = errno.EACCES, errno.EPERM, errno.EROFS
"""Error numbers of files that may not be read or written, and of a read-only file system."""


def run(make: Callable[..., Experiment], argv: Sequence[str] | None = None) -> Outcome:
    """Build an experiment from command-line arguments and train it.

    Args:
        make: a function of the hyperparameters; its docstring becomes the help.
        argv: the arguments; `sys.argv[1:]` if absent.

    Raises:
        SystemExit: with a message on stderr. Status 0 after `--plan`; 2 for a user error; 1 if the
            loss is not finite or a disk is full; 143, 130 or 129 if SIGTERM, SIGINT or SIGHUP
            stopped the run (with several processes always 143); 141 if nobody reads stdout any
            more (`| head`). If another process is lost, see `signals.abort_with_peers`.
    """
    try:
        hyperparameters, options = parse(make, argv)
        if options.plan is not None:
            check_steps(hyperparameters)
            # Imported here: a run does not need it.
            from jaxmodels.experiment.planning import print_plan

            print_plan(make, hyperparameters, options)
            raise SystemExit(0)
        keep_freed_memory()
        sharding.initialize_distributed(options.coordinator, options.processes, options.process_id)
        use_compilation_cache(options.compilation_cache)
        with contextlib.ExitStack() as held:
            with abort_with_peers():
                setup, folder = open_run(make, hyperparameters, options, held)
            return run_setup(setup, folder)
    except (Diverged, SaveFailed) as error:
        raise SystemExit(print_error(error, status=1)) from None
    except UserError as error:
        raise SystemExit(print_error(error, status=2)) from None
    except BrokenPipeError:
        # Python would complain once more when it flushes stdout at exit.
        print_nowhere(sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno not in (*DISK_FULL, *NO_RIGHT):
            raise
        raise SystemExit(print_error(error, 1 if error.errno in DISK_FULL else 2)) from None


def parse(
    make: Callable[..., Experiment], argv: Sequence[str] | None = None
) -> tuple[dict[str, Any], Options]:
    """Parse `argv` into hyperparameters and run options."""

    @functools.wraps(make)
    def record(**hyperparameters: Any) -> dict[str, Any]:
        return hyperparameters

    taken = {field.name for field in dataclasses.fields(Options)}
    if clash := taken & inspect.signature(make).parameters.keys():
        raise UserError(
            f"the hyperparameter {clash.pop()!r} of {make.__name__} has the name of an option that "
            "every run has (see `jaxmodels.experiment.options`); rename it"
        )

    @dataclasses.dataclass
    class Command:
        experiment: Annotated[dict[str, Any], tyro.conf.arg(constructor=record)]
        run: Options

    description = sys.modules[make.__module__].__doc__
    command = tyro.cli(Command, args=argv, description=description, config=HELP)
    return command.experiment, command.run


def open_run(
    make: Callable[..., Experiment],
    hyperparameters: Mapping[str, Any],
    options: Options,
    held: contextlib.ExitStack,
) -> tuple[Setup, Folder]:
    """Build the experiment and open its folder, which is locked until `held` is closed.

    An error on one process is raised on all.
    """
    # Before the data are read: this connects the processes, and some may take long to read.
    check_processes_agree(consistency.describe_command(make, hyperparameters, options))
    check_steps(hyperparameters)
    setup = run_on_all(lambda: set_up(make(**hyperparameters), options))
    check_processes_agree(consistency.describe_data(setup.experiment))
    return setup, open_folder(make, hyperparameters, setup.experiment, options, held)


def check_steps(hyperparameters: Mapping[str, Any]) -> None:
    """Raise `UserError` unless `steps` is positive; optax's schedules would fail less clearly."""
    steps = hyperparameters.get("steps", 1)
    if steps < 1:
        raise UserError(f"--steps must be positive; got {steps}")


def print_error(error: Exception, status: int) -> int:
    """Print the error and its notes to stderr, except jax's on tracebacks; return `status`."""
    notes = [n for n in getattr(error, "__notes__", ()) if "JAX_TRACEBACK_FILTERING" not in n]
    print(f"{Path(sys.argv[0]).name}: {error}", *notes, sep="\n", file=sys.stderr)
    return status


def use_compilation_cache(where: str) -> None:
    """Set up jax's persistent compilation cache, so that later starts need not compile."""
    folder = cache.cache_dir() if where == "auto" else None if where == "off" else Path(where)
    jax.config.update("jax_compilation_cache_dir", folder and str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # If something was compiled before, jax has already settled on another cache or on none.
    compilation_cache.reset_cache()
