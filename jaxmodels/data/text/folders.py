"""Where plain text files lie, and what to say when they do not."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxmodels.data import tfds
from jaxmodels.errors import UserError

ORIGIN = {
    "ptb": "Unpack https://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz; the files are in "
    "its folder data.",
    "multi30k": "Download the .gz files of data/task1/raw in https://github.com/multi30k/dataset "
    "and gunzip them.",
}
"""How to get the plain files of a corpus that TFDS does not prepare."""


def find(name: str, files: Sequence[str], data_dir: str | Path | None, stand_in: str) -> Path:
    """The folder that holds these files: `data_dir`, or its folder `name`.

    Without `data_dir` it is `JAXMODELS_TEXT_DIR`, else TFDS's folder. Raises `UserError`, which
    says where the files come from, where they go, and what to train on without them.
    """
    folder = at(name, files, data_dir)
    if folder is not None:
        return folder
    candidates = _candidates(name, data_dir)
    missing = [file for file in files if not (candidates[1] / file).is_file()]
    raise UserError(
        f"The corpus {name!r} is not there: neither {candidates[0]} nor {candidates[1]} holds all "
        f"its files (the latter lacks {', '.join(missing)}).\n{ORIGIN[name]} Then name the folder "
        f"with --data-dir or JAXMODELS_TEXT_DIR,\nor train on the embedded stand-in: "
        f"--dataset {stand_in}"
    )


def at(name: str, files: Sequence[str], data_dir: str | Path | None) -> Path | None:
    """The folder that holds these files, None without one."""
    whole = (
        folder
        for folder in _candidates(name, data_dir)
        if all((folder / file).is_file() for file in files)
    )
    return next(whole, None)


def _candidates(name: str, data_dir: str | Path | None) -> tuple[Path, Path]:
    parent = Path(data_dir or os.environ.get("JAXMODELS_TEXT_DIR") or tfds.folder(None))
    return parent.expanduser(), parent.expanduser() / name


def read(path: Path) -> str:
    """A file's text; raises `UserError` where it is not UTF-8, or empty."""
    try:
        # newline="": line ends stay as they are.
        with path.open(encoding="utf-8", newline="") as file:
            found = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8: byte {error.start} cannot be decoded.") from error
    if not found.strip():
        raise UserError(f"{path} holds no text; download it again.")
    return found
