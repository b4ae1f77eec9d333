"""Run folders in Google Cloud Storage, `gs://BUCKET/FOLDER`, with a local mirror of their files.

Orbax writes checkpoints straight to the bucket. Objects in a bucket cannot be appended to, so files
that grow during a run are kept on a local disk of process 0: downloaded when the run starts,
uploaded at each checkpoint and at the end.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath

from jaxmodels.errors import UserError
from jaxmodels.train.checkpoint import SaveFailed

CHECKPOINTS = "checkpoints"

Folder = Path | epath.Path
"""A folder on disk or in a bucket."""


def folder_path(folder: str | os.PathLike[str]) -> Folder:
    """Parse a path on disk, which may begin with `~`, or an address `gs://BUCKET/FOLDER`.

    Raises:
        UserError: another scheme, such as s3://, or gcsfs is not installed.
    """
    name = os.fspath(folder)
    scheme, separator, rest = name.partition("://")
    if not separator:
        # As a shell does, but not for --out=~/run.
        return Path(os.path.expanduser(name))
    if scheme != "gs" or not rest.strip("/"):
        # Orbax would take s3://... for a path on disk.
        raise UserError(f"expected a folder on disk or gs://BUCKET/FOLDER; got {name}")
    # Imported here: it takes 40 ms, and runs on disk do not need it.
    import fsspec
    from fsspec.config import conf

    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError:
        raise UserError(
            f"{name} needs the package gcsfs, which is not installed; run with "
            "`uv run --extra bucket ...`, or `uv pip install gcsfs` where you run without uv"
        ) from None
    # Else epath imports TensorFlow where it is installed: seconds, and other errors.
    os.environ["EPATH_USE_TF"] = "false"
    # TensorStore and other hosts write there too, so gcsfs's cached listings would be stale.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(name)


def list_names(folder: Folder) -> set[str]:
    """The names of the files and folders in a folder; empty for a missing one in a bucket."""
    try:
        found = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        if isinstance(folder, Path):
            raise
        return set()
    # Google's console marks a new folder by an object that is listed under the folder's own name.
    return found if isinstance(folder, Path) else found - {folder.name}


def check_access(probe: Folder) -> None:
    """Raise `UserError` unless this file can be written and deleted, and its folder listed."""
    try:
        list_names(probe.parent)
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # of the network, of Google's libraries, of the bucket
        raise UserError(
            f"--out {probe.parent} cannot be used ({type(error).__name__}: {error}); expected a "
            "existing bucket, and the rights to list, write and delete in it (outside of "
            "Google's machines: `gcloud auth application-default login`)"
        ) from None


class Mirror:
    """A local copy of the files in a run's folder, without the checkpoints."""

    def __init__(self, files: Path, folder: Folder) -> None:
        """`files` is the local copy; it is `folder` itself if that is on disk."""
        self.files = files
        self.folder = folder
        self._copied: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Download all files from the bucket."""
        for name in _list_files(self.folder):
            path = self.files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((self.folder / name).read_bytes())
            self._copied[name] = _mtime_and_size(path)

    def copy(self) -> None:
        """Upload files that changed since the last call; raises `SaveFailed` if that fails."""
        if self.files == self.folder:
            return
        for name in _list_files(self.files):
            version = _mtime_and_size(self.files / name)
            if self._copied.get(name) == version:
                continue
            try:
                (self.folder / name).write_bytes((self.files / name).read_bytes())
            except Exception as error:
                raise SaveFailed(
                    f"{name} could not be copied to {self.folder}.\nThe reason: {error}"
                ) from error
            self._copied[name] = version


@contextlib.contextmanager
def open_mirror(folder: Folder) -> Iterator[Mirror]:
    """A mirror of the folder that process 0 writes to; leaving the context uploads it."""
    if isinstance(folder, Path):
        yield Mirror(folder, folder)
        return
    with tempfile.TemporaryDirectory(prefix="jaxmodels-") as files:
        mirror = Mirror(Path(files), folder)
        if jax.process_index() == 0:
            mirror.fetch()
        try:
            yield mirror
        except BaseException as error:
            try:
                mirror.copy()
            except SaveFailed as failure:
                if not isinstance(error, SaveFailed):  # else the error already says why
                    error.add_note(str(failure))
            raise
        mirror.copy()


def _list_files(folder: Folder, prefix: str = "") -> list[str]:
    """Paths of all files, relative to the folder, without those of checkpoints."""
    found = []
    for name in sorted(list_names(folder) - {CHECKPOINTS}):
        child = folder / name
        found += _list_files(child, f"{prefix}{name}/") if child.is_dir() else [prefix + name]
    return found


def _mtime_and_size(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
