"""The files of a run's folder: atomic JSON, and reading results and params back."""

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, folder_path
from jaxmodels.train.checkpoint import Checkpoints

CONFIG = "config.json"
RESULTS = "results.json"


def results(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The final metrics of a finished run by name, such as `test/error`.

    What is NaN or infinite is null in the file, as JSON has no name for it, and NaN here.
    """
    path = folder_path(folder) / RESULTS
    if not path.exists():
        raise UserError(f"{folder} holds no {RESULTS}: not the folder of a finished run")
    return {name: _metric(value) for name, value in read_json(path).items()}


def params(
    folder: str | os.PathLike[str], part: str = "params", which: str | int = "newest"
) -> Any:
    """The params of a run's newest good checkpoint, as nested dicts on one device.

    Args:
        folder: the run's folder.
        part: of the state: `params`, which the optimizer updates, `collections` (BatchNorm's
            statistics), or the average in a chain's second link, "opt_state/1/ema".
        which: "newest"; "best", the one with the best value of the run's metric
            (`Experiment.best_metric`); or a step number.

    Raises:
        UserError: there is no run, no such checkpoint or no such part.
        DamagedCheckpoints: there is one, but damaged.
    """
    checkpoints = folder_path(folder) / CHECKPOINTS
    if not checkpoints.is_dir():
        raise UserError(
            f"{folder} holds no folder {CHECKPOINTS}: not the folder of a run that saved its state"
        )
    metric, higher = None, False
    if which == "best":
        config = read_json(folder_path(folder) / CONFIG)
        metric = config.get("best")
        higher = metric is not None and bool(config["metrics"][metric]["higher_is_better"])
    opened = Checkpoints(checkpoints, best=metric, minimize=not higher).open(which)
    return opened.read_part(part)


def check_version(config: Mapping[str, Any], folder: Any) -> None:
    """Raise `UserError` for a run of version 0.1, which used other names."""
    if config.get("jaxmodels", "0.1").startswith("0.1"):
        raise UserError(
            f"{folder} holds a run of jaxmodels 0.1. Params, options and metrics have other names "
            f"since 0.2, so {jaxmodels.__version__} cannot resume or read it: use the version "
            "that wrote it, or train again in another folder"
        )


def _metric(value: Any) -> Any:
    if isinstance(value, list):
        array = np.asarray(value)
        return array.astype(float) if array.dtype == object else array  # None is NaN
    return float("nan") if value is None else value


def read_json(path: Folder, remedy: str = "it is empty or damaged") -> Any:
    """Read a JSON file of a run; raises `UserError`, which ends with `remedy`, for another one."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is not a file that a run has written; {remedy}") from None


def is_empty(path: Folder, consequence: str) -> bool:
    """Whether a file is empty, as a machine leaves it without power; says so."""
    if path.read_bytes().strip(b"\0 \n"):
        return False
    print(f"{path} is empty: {consequence}", file=sys.stderr)
    return True


def write_json(path: Folder, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: a reader never sees half a file, nor does a kill leave one."""
    write_text(path, json.dumps(to_json_types(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Folder, text: str) -> None:
    """Write a text file atomically."""
    new = partial_path(path)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def partial_path(path: Folder) -> Folder:
    """The temporary path that a file is written to before it is renamed."""
    return path.with_suffix(".tmp")


def to_json_types(value: Any) -> Any:
    """The value as dicts, lists, strings and finite numbers; anything else as its string.

    NaN and infinity become None.
    """
    if isinstance(value, Mapping):
        return {str(k): to_json_types(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_types(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_json_types(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
