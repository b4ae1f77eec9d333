"""The files of a run's folder: writing JSON whole, and reading results and params back."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, as_folder
from jaxmodels.train.checkpoint import Checkpoints

CONFIG = "config.json"
RESULTS = "results.json"


def results(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The metrics that a finished run measured, by name, such as `test/error`."""
    path = as_folder(folder) / RESULTS
    if not path.exists():
        raise UserError(f"{folder} holds no {RESULTS}: no run, or none that has finished")
    return {
        name: np.asarray(value) if isinstance(value, list) else value
        for name, value in json.loads(path.read_text()).items()
    }


def params(folder: str | os.PathLike[str], part: str = "params") -> Any:
    """The params of the newest good checkpoint of a run, as nested dicts on one device.

    These are what the optimizer works on. By its name any other part of the state can be read, such
    as `collections` (BatchNorm's statistics), or the average that a chain's second link keeps:
    `params(folder, "opt_state/1/ema")`.

    Raises:
        UserError: no run is there, or no good checkpoint, or no such part.
    """
    checkpoints = as_folder(folder) / CHECKPOINTS
    if not checkpoints.is_dir():
        raise UserError(f"{folder} holds no {CHECKPOINTS}: no run, or none that saved its state")
    return Checkpoints(checkpoints).read_latest(part)


def check_version(config: Mapping[str, Any], folder: Any) -> None:
    """Raise `UserError` for a run of version 0.1, whose names are others."""
    if config.get("jaxmodels", "0.1").startswith("0.1"):
        raise UserError(
            f"{folder} holds a run of jaxmodels 0.1. Params, options and metrics have other names "
            f"since 0.2, so {jaxmodels.__version__} cannot continue or read it: use the version "
            "that wrote it, or train anew in another folder"
        )


def write_json(path: Folder, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: a reader, or a kill, never meets half a file."""
    write_text(path, json.dumps(plain(content), indent=2) + "\n")


def write_text(path: Folder, text: str) -> None:
    """Write a text atomically."""
    new = partial_path(path)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def partial_path(path: Folder) -> Folder:
    """Where a file is written before it takes its place."""
    return path.with_suffix(".tmp")


def plain(value: Any) -> Any:
    """The value in the types that JSON has."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
