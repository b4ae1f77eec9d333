"""Opening a run's folder: a new one, or one to resume if it holds the same experiment."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, check_access, folder_path, list_names
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import (
    CONFIG,
    check_version,
    is_empty,
    partial_path,
    to_json_types,
    write_json,
    write_text,
)
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.start import provenance
from jaxmodels.train.collective import run_on_process_0
from jaxmodels.train.paths import absolute

LOCK = ".lock"
"""The file whose lock a running process holds."""

PACKAGES = "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"

FIXED_OPTIONS = "seed", "precision", "accumulate"
"""Options that change what is computed: they must be the same when a run is resumed. (`on_nan` may
differ: skipping is how a run that diverged is resumed.)"""

FREE_HYPERPARAMETERS = "data_dir", "steps"
"""Hyperparameters that may change on resuming: `data_dir`, and `steps` to train for longer."""


def open_folder(
    make: Callable[..., Experiment],
    hyperparameters: Mapping[str, Any],
    experiment: Experiment,
    options: Options,
    held: contextlib.ExitStack,
) -> Folder:
    """Create the run's folder, or open `--out` to resume if it holds the same experiment.

    On disk the folder is locked until `held` is closed or the process ends.

    Raises:
        UserError: `--out` is not a folder, is not writable, is in use, or belongs to another run.
    """
    config = _config(make, hyperparameters, experiment, options)

    def open_on_disk() -> str:
        if options.out is None:
            folder = _new_folder(Path("runs", make.__name__))
        else:
            folder = folder_path(options.out)
            _make_folder(folder)
        _check_is_run_folder(folder, experiment.files)
        held.enter_context(_locked(folder))
        previous = _load_config_of_same_run(folder, config)
        config["start"] = _start_of(previous, experiment, options)
        if previous and (changed := _changed_versions(previous, config)):
            config["started_with"] = changed
            print(_version_warning(changed, config), file=sys.stderr)
        for name, content in experiment.files.items():
            _write_or_compare(folder / name, content)
        if previous is None or not options.evaluate:  # which leaves the record of the training
            write_json(folder / CONFIG, config)
        return str(folder)

    # Only on process 0: clocks differ between processes, and so may what they find in the folder.
    return folder_path(run_on_process_0(open_on_disk))


def _config(
    make: Callable[..., Experiment],
    hyperparameters: Mapping[str, Any],
    experiment: Experiment,
    options: Options,
) -> dict[str, Any]:
    """The content of the run's `config.json`; `start` is filled in later."""
    return {
        "jaxmodels": jaxmodels.__version__,
        "experiment": make.__name__,
        "description": inspect.getdoc(inspect.getmodule(make)),
        "published": to_json_types(dataclasses.asdict(experiment.published))
        if experiment.published
        else {},
        "hyperparameters": to_json_types(hyperparameters),
        "changed": to_json_types(changed_hyperparameters(make, hyperparameters, experiment)),
        "metrics": {k: dataclasses.asdict(kind) for k, kind in experiment.metric_types.items()},
        "best": experiment.best_metric,
        "steps": experiment.steps,
        "start": None,
        "trainable": experiment.trainable if isinstance(experiment.trainable, str) else None,
        "eval_params": getattr(experiment.eval_params, "__name__", None),
        "options": to_json_types(dataclasses.asdict(options)),
        **_describe_environment(),
    }


def _start_of(previous: Mapping[str, Any] | None, experiment: Experiment, options: Options) -> Any:
    """Provenance of the params that the run has started from, which a resumed run keeps."""
    if previous is None:
        return to_json_types(provenance(experiment.start))
    start = previous.get("start")
    began = start.get("folder") if isinstance(start, dict) else None
    if options.start is not None and not (began and _same(options.start, began)):
        raise UserError(
            f"this run has started from {began or 'initial params'}, not from {options.start}; "
            "give the same --start (or none) to resume it, or another --out for a new run"
        )
    return start


def _same(one: str, other: str) -> bool:
    """Whether two spellings are of one folder."""
    return absolute(folder_path(one)) == absolute(folder_path(other))


def changed_hyperparameters(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], experiment: Experiment
) -> dict[str, tuple[Any, Any]]:
    """(published value, this run's value) of each hyperparameter that differs from the publication.

    Published values are the defaults of `make`, overridden by `Published.setting`.
    """
    setting = experiment.published.setting if experiment.published else {}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if name not in ("dataset", "data_dir")
    }
    expected = {**defaults, **setting}
    return {
        name: (expected[name], value)
        for name, value in hyperparameters.items()
        if name in expected and expected[name] != value
    }


def resume_command(folder: Folder) -> str:
    """The command that resumes the run in `folder`."""
    arguments = [argument for argument in sys.argv if argument != "--evaluate"]
    if not any(argument.partition("=")[0] == "--out" for argument in arguments):
        arguments += ["--out", str(folder)]
    return shlex.join(["uv", "run", *arguments])


def _new_folder(parent: Path) -> Path:
    """A folder named after the time, which no other run has made."""
    _make_folder(parent)
    now = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    folder, number = parent / now, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = parent / f"{now}-{number}"
        else:
            return folder


@contextlib.contextmanager
def _locked(folder: Folder) -> Iterator[None]:
    """Keep other processes from writing to a folder on disk; a kill releases the lock as well."""
    if not isinstance(folder, Path):
        yield
        return
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"--out {folder} is in use by another process: stop it or wait for its end to resume "
            "it, or give another --out for a new run"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _make_folder(folder: Folder) -> None:
    if not isinstance(folder, Path):
        return check_access(partial_path(folder / CONFIG))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(
            f"--out {folder} is a file; expected a new folder or that of a run"
        ) from None
    except OSError as error:
        raise UserError(f"--out {folder} cannot be created: {error.strerror}") from None
    for place in (folder, folder / CHECKPOINTS):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(
                f"--out {place} is not writable; choose another folder or change its rights"
            )


def _check_is_run_folder(folder: Folder, files: Iterable[str]) -> None:
    """Raise `UserError` for a folder with things in it, but no config.

    `files` are the run's own, which are written before the config.
    """
    written = {CONFIG, *files}
    own = {LOCK, *written, *(partial_path(Path(name)).name for name in written)}
    if not (folder / CONFIG).exists() and list_names(folder) - own:
        raise UserError(
            f"--out {folder} is not empty and holds no {CONFIG}: not the folder of a run; "
            "choose a new one"
        )


def _load_config_of_same_run(folder: Folder, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of the run to resume; None if the folder is new or has no checkpoint yet."""
    path = folder / CONFIG
    if not path.exists():
        return None
    if is_empty(path, "its settings are not compared with this run's"):
        return None
    try:
        previous = json.loads(path.read_text())
        differences = _differences(previous, config)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not a file that a run has written; give the folder of a run, or a new one"
        ) from None
    check_version(previous, f"--out {folder}")
    if not _has_checkpoints(folder):
        return None
    if differences:
        raise UserError(
            f"--out {folder} belongs to another run:\n" + "\n".join(differences) + "\n"
            "Give the same values to resume it, or another --out for a new run."
        )
    return previous


def _changed_versions(previous: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Versions that the run was started with, of packages whose version is another now."""
    started = {**previous.get("versions", {}), **previous.get("started_with", {})}
    now = config["versions"]
    return {name: started[name] for name in PACKAGES if started.get(name, now[name]) != now[name]}


def _version_warning(changed: Mapping[str, str], config: Mapping[str, Any]) -> str:
    changes = (f"{name} {old}, now {config['versions'][name]}" for name, old in changed.items())
    return (
        f"the run was started with {'; '.join(changes)}: it resumes, but its results may differ in "
        "rounding from those of an uninterrupted run"
    )


def _write_or_compare(path: Folder, content: str) -> None:
    """Write the file; when resuming, raise `UserError` unless it is the same already."""
    if path.exists() and _has_checkpoints(path.parent):
        previous = path.read_text(encoding="utf-8")
        if previous == content:
            return
        raise UserError(
            f"{path} was written when the run started, but the data now give another one: "
            f"{_first_difference(previous, content)}.\n"
            "Give the data that the run was started with, or another --out for a new run."
        )
    write_text(path, content)


def _first_difference(previous: str, now: str) -> str:
    """The first token where two vocabularies differ, or character where two texts do."""
    # Imported here: most runs have no vocabulary.
    from jaxmodels.data import text

    try:
        vocabularies = text.vocabulary_from_json(previous), text.vocabulary_from_json(now)
    except UserError:
        pairs = enumerate(zip(previous, now, strict=False))
        equal = next((n for n, (a, b) in pairs if a != b), min(len(previous), len(now)))
        return f"at character {equal:,} {previous[equal:][:40]!r} there, {now[equal:][:40]!r} now"
    return text.vocabulary_difference(*vocabularies)


def _has_checkpoints(folder: Folder) -> bool:
    """Whether a run saved anything; one that failed before may be replaced by another."""
    return any((folder / CHECKPOINTS).glob("*"))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = _fixed_settings(old), _fixed_settings(new)
    return [
        f"  {name}: {before.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, "absent") != now.get(name, "absent")
    ]


def _fixed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same when the run is resumed."""
    hyperparameters = config["hyperparameters"].items()
    return {
        "experiment": config["experiment"],
        **{k: v for k, v in hyperparameters if k not in FREE_HYPERPARAMETERS},
        **{k: config["options"].get(k) for k in FIXED_OPTIONS},
    }


def _describe_environment() -> dict[str, Any]:
    return {
        "command": shlex.join(sys.argv),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
        "machine": {"name": platform.platform(), "cores": os.cpu_count()},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of the working directory, with "-dirty" if changed; None outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
