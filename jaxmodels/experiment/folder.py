"""Opening a run's folder: new, or that of the same run begun before."""

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, as_folder, check_rights, list_names
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import (
    CONFIG,
    check_version,
    partial_path,
    plain,
    write_json,
    write_text,
)
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.start import provenance
from jaxmodels.train.collective import from_first

PACKAGES = "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"

BINDING_OPTIONS = "seed", "precision", "accumulate"
"""The options that change what is computed; a run goes on only with the same. (`on_nan` changes
nothing before a loss that is not finite, and then skipping is the way to go on.)"""

FREE_HYPERPARAMETERS = "data_dir", "steps"
"""`data_dir` says where, not what; more `steps` is how a finished run is taken further."""


def open_folder(
    make: Callable[..., Experiment],
    hyperparameters: Mapping[str, Any],
    experiment: Experiment,
    options: Options,
) -> Folder:
    """The folder of a new run, or of the one in `--out` if it is the same experiment's.

    Raises:
        UserError: `--out` is no folder, is not writable, or belongs to something else.
    """
    config = {
        "jaxmodels": jaxmodels.__version__,
        "experiment": make.__name__,
        "description": inspect.getdoc(inspect.getmodule(make)),
        "published": plain(dataclasses.asdict(experiment.published))
        if experiment.published
        else {},
        "hyperparameters": plain(hyperparameters),
        "changed": plain(changed_hyperparameters(make, hyperparameters, experiment)),
        "metrics": {k: dataclasses.asdict(kind) for k, kind in experiment.metric_types.items()},
        "steps": experiment.steps,
        "start": plain(provenance(experiment.start)),
        "trainable": experiment.trainable if isinstance(experiment.trainable, str) else None,
        "eval_params": getattr(experiment.eval_params, "__name__", None),
        "options": plain(dataclasses.asdict(options)),
        **_circumstances(),
    }

    def opened() -> str:
        now = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
        folder = as_folder(options.out or f"runs/{make.__name__}/{now}")
        _make(folder)
        there = _refuse_other(folder, config)
        if there and (others := _other_versions(there, config)):
            config["begun_with"] = others
            print(_on_versions(others, config), file=sys.stderr)
        for name, content in experiment.files.items():
            _keep(folder / name, content)
        write_json(folder / CONFIG, config)
        return str(folder)

    # One process for all: their clocks differ, and so does what each would find in the folder.
    return as_folder(from_first(opened))


def changed_hyperparameters(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], experiment: Experiment
) -> dict[str, tuple[Any, Any]]:
    """The published and this run's value of each hyperparameter that is not the published one.

    Published are the defaults of `make`, and what `Published.setting` says instead of them.
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
    given = any(argument.partition("=")[0] == "--out" for argument in sys.argv)
    arguments = sys.argv if given else [*sys.argv, "--out", str(folder)]
    return shlex.join(["uv", "run", *arguments])


def _make(folder: Folder) -> None:
    if not isinstance(folder, Path):
        return check_rights(partial_path(folder / CONFIG))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {folder} is a file; expected a folder, new or of a run") from None
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder} is not writable; choose another folder or its rights")


def _refuse_other(folder: Folder, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of the same run, begun before; None if none was begun."""
    path = folder / CONFIG
    if not path.exists():
        if list_names(folder) - {partial_path(path).name}:
            raise UserError(
                f"--out {folder} is not empty and holds no {CONFIG}, so it is no run's folder; "
                "choose a new one"
            )
        return None
    try:
        there = json.loads(path.read_text())
        differences = _differences(there, config)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not what a run writes; give the folder of a run, or a new one"
        ) from None
    check_version(there, f"--out {folder}")
    if not _begun(folder):
        return None
    if differences:
        raise UserError(
            f"--out {folder} belongs to another run:\n" + "\n".join(differences) + "\n"
            "Give the same values to go on with it, or another folder to start anew."
        )
    return there


def _other_versions(there: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What the run was begun with, of those packages that are others now."""
    begun = {**there.get("versions", {}), **there.get("begun_with", {})}
    now = config["versions"]
    return {name: begun[name] for name in PACKAGES if begun.get(name, now[name]) != now[name]}


def _on_versions(others: Mapping[str, str], config: Mapping[str, Any]) -> str:
    changes = (f"{name} {old}, now {config['versions'][name]}" for name, old in others.items())
    return (
        f"the run was begun with {'; '.join(changes)}: it goes on, but not bit for bit as if it "
        "had never stopped"
    )


def _keep(path: Folder, content: str) -> None:
    """Write the file, or make sure that what the run began with is the same."""
    if path.exists() and _begun(path.parent):
        there = path.read_text(encoding="utf-8")
        if there == content:
            return
        raise UserError(
            f"{path}, which the run was begun with, is not what the data make now: "
            f"{_first_difference(there, content)}.\n"
            "Give the data that it was begun with, or another --out to start anew."
        )
    write_text(path, content)


def _first_difference(there: str, now: str) -> str:
    """The token where two vocabularies differ, or the place where other texts do."""
    # Imported here: most runs keep no vocabulary.
    from jaxmodels.data import text

    try:
        vocabularies = text.vocabulary_from_json(there), text.vocabulary_from_json(now)
    except UserError:
        pairs = enumerate(zip(there, now, strict=False))
        equal = next((n for n, (a, b) in pairs if a != b), min(len(there), len(now)))
        return f"at character {equal:,} {there[equal:][:40]!r} there, {now[equal:][:40]!r} now"
    return text.vocabulary_difference(*vocabularies)


def _begun(folder: Folder) -> bool:
    """Whether it has checkpoints: a run that failed before its first one is free to be changed."""
    return any((folder / CHECKPOINTS).glob("*"))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    there, here = _binding(old), _binding(new)
    return [
        f"  {name}: {there.get(name, 'absent')!r} there, {here.get(name, 'absent')!r} now"
        for name in sorted(there.keys() | here.keys())
        if there.get(name, "absent") != here.get(name, "absent")
    ]


def _binding(config: Mapping[str, Any]) -> dict[str, Any]:
    hyperparameters = config["hyperparameters"].items()
    return {
        "experiment": config["experiment"],
        **{k: v for k, v in hyperparameters if k not in FREE_HYPERPARAMETERS},
        **{k: config["options"].get(k) for k in BINDING_OPTIONS},
    }


def _circumstances() -> dict[str, Any]:
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
    """The git commit of the working directory, marked if there are changes; None outside of one."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
