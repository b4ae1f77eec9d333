"""Find and read the plain text files of a corpus."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from jaxmodels.data import tfds
from jaxmodels.errors import UserError

DOWNLOAD_HINTS = {
    "ptb": "Unpack https://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz; the files are in "
    "its folder data.",
    "multi30k": "Download the .gz files of data/task1/raw in https://github.com/multi30k/dataset "
    "and gunzip them.",
}
"""Where to download the plain files of a corpus that TFDS does not prepare."""


def find_text_files(
    name: str, files: Sequence[str], data_dir: str | Path | None, stand_in: str
) -> Path:
    """The folder that holds all these files: `data_dir` or `data_dir/name`.

    `data_dir` defaults to `JAXMODELS_TEXT_DIR`, then to TFDS's folder. Raises `UserError` with the
    download address if files are missing.
    """
    folder = text_folder(name, files, data_dir)
    if folder is not None:
        return folder
    candidates = _candidates(name, data_dir)
    missing = [file for file in files if not (candidates[1] / file).is_file()]
    raise UserError(
        f"The corpus {name!r} is not there: neither {candidates[0]} nor {candidates[1]} holds all "
        f"its files (the latter lacks {', '.join(missing)}).\n{DOWNLOAD_HINTS[name]} Then give the "
        f"folder with --data-dir or JAXMODELS_TEXT_DIR,\nor train on the embedded stand-in: "
        f"--dataset {stand_in}"
    )


def text_folder(name: str, files: Sequence[str], data_dir: str | Path | None) -> Path | None:
    """The first candidate folder that holds all these files; None if none does."""
    complete = (
        folder
        for folder in _candidates(name, data_dir)
        if all((folder / file).is_file() for file in files)
    )
    return next(complete, None)


def _candidates(name: str, data_dir: str | Path | None) -> tuple[Path, Path]:
    parent = Path(data_dir or os.environ.get("JAXMODELS_TEXT_DIR") or tfds.tfds_dir(None))
    return parent.expanduser(), parent.expanduser() / name


def read_text(path: Path) -> str:
    """Read a UTF-8 text: no byte-order mark, lines that end with "\\n", composed characters (NFC).

    So one word is one word, whatever program has written it. Raises `UserError` if the file cannot
    be read, is not UTF-8 or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start} cannot be decoded.") from error
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
