"""A run's folder in a bucket, `gs://BUCKET/FOLDER`, and its files that only a disk can hold.

Orbax writes checkpoints straight to the bucket. But what is in a bucket is written whole, never
appended to, so the files that grow while a run goes on are on a disk of process 0: fetched when the
run begins, copied back at each checkpoint and at the end.
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
"""On disk, or in a bucket."""


def as_folder(folder: str | os.PathLike[str]) -> Folder:
    """The folder of that path or address.

    Raises:
        UserError: an address of another kind, or what reads buckets is not installed.
    """
    name = os.fspath(folder)
    scheme, separator, rest = name.partition("://")
    if not separator:
        return Path(name)
    if scheme != "gs" or not rest.strip("/"):
        # Of Amazon's, s3://, Orbax makes a path on disk.
        raise UserError(f"expected a folder on disk or gs://BUCKET/FOLDER; got {name}")
    # Imported here: runs on disk, whose start would take 40 ms longer, need none of it.
    import fsspec
    from fsspec.config import conf

    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError:
        raise UserError(
            f"{name} needs the package gcsfs, which is not installed; run with "
            "`uv run --extra bucket ...`, or `uv pip install gcsfs` where you run without uv"
        ) from None
    # Where TensorFlow is installed, epath would use that: seconds to import, and other errors.
    os.environ["EPATH_USE_TF"] = "false"
    # TensorStore and other hosts write there too, of which gcsfs's listings would not know.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(name)


def list_names(folder: Folder) -> set[str]:
    """What there is in it; a bucket knows no empty folders."""
    try:
        found = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        if isinstance(folder, Path):
            raise
        return set()
    # Google's console marks a new folder by an object, which is listed as the folder itself.
    return found if isinstance(folder, Path) else found - {folder.name}


def check_rights(probe: Folder) -> None:
    """Raise `UserError` if one cannot list the folder of this file, write it and delete it."""
    try:
        list_names(probe.parent)
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # of the network, of Google's libraries, of the bucket
        raise UserError(
            f"--out {probe.parent} cannot be used ({type(error).__name__}: {error}); expected a "
            "bucket that is there, and the right to list, write and delete in it (outside of "
            "Google's machines: `gcloud auth application-default login`)"
        ) from None


class Mirror:
    """The files of a run's folder on disk, without the checkpoints."""

    def __init__(self, files: Path, folder: Folder) -> None:
        """`files` is where to write; it is `folder` itself if that is on disk."""
        self.files = files
        self.folder = folder
        self._copied: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Get what there is in the bucket."""
        for name in _below(self.folder):
            path = self.files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((self.folder / name).read_bytes())
            self._copied[name] = _version(path)

    def copy(self) -> None:
        """Bring to the bucket what has changed since; `SaveFailed` if that goes wrong."""
        if self.files == self.folder:
            return
        for name in _below(self.files):
            version = _version(self.files / name)
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
def mirrored(folder: Folder) -> Iterator[Mirror]:
    """A mirror of the folder, for process 0 to write to; leaving the context copies it."""
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
                if not isinstance(error, SaveFailed):  # else it says why already
                    error.add_note(str(failure))
            raise
        mirror.copy()


def _below(folder: Folder, prefix: str = "") -> list[str]:
    """All files but those of checkpoints, by their paths relative to the folder."""
    found = []
    for name in sorted(list_names(folder) - {CHECKPOINTS}):
        child = folder / name
        found += _below(child, f"{prefix}{name}/") if child.is_dir() else [prefix + name]
    return found


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
