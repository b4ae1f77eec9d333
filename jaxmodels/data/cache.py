"""Disk cache of decoded datasets: memory-mapped .npy files, so that images are decoded only once.

It is in the user's cache folder (`JAXMODELS_CACHE` names another, `off` turns it off) and may be
deleted at any time. Each file's checksum is verified when it is opened.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmodels.data.sources import ArraySource

# In every path; to be raised when the format changes.
FORMAT = 1
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class CacheEntry:
    """Identifies a cached split.

    Attributes:
        name: of dataset and split, for messages.
        dataset: the dataset's key and fingerprint, a folder name.
        split: the split's name, a folder name.
    """

    name: str
    dataset: str
    split: str

    def path(self) -> Path | None:
        """The entry's folder; None if the cache is turned off."""
        parent = cache_dir()
        return parent and parent / f"data-{FORMAT}" / self.dataset / self.split


def cache_dir() -> Path | None:
    """The folder for caches of jaxmodels; None if they are turned off, or a user has no home."""
    chosen = os.environ.get("JAXMODELS_CACHE")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser()
    parent = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    if parent and sys.platform != "darwin":
        return Path(parent) / "jaxmodels"
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a name
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "jaxmodels"


def fingerprint(files: Sequence[Path]) -> str:
    """A hash of the files' names, sizes and modification times, 16 hexadecimal digits."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def read_cached(entry: CacheEntry) -> ArraySource | None:
    """The cached split; None if there is none, or if it is damaged (with a warning)."""
    path = entry.path()
    if path is None:
        return None
    try:
        return _read(path, entry.name) if path.is_dir() else None
    except PermissionError:  # another user's; writing will say so
        return None
    except DAMAGE as error:
        warnings.warn(
            f"The cached split {path} is damaged and will be decoded again: {error}", stacklevel=2
        )
        return None


def write_cached(entry: CacheEntry, decoded: ArraySource) -> ArraySource:
    """Write a decoded split to the cache; returns it memory-mapped, or unchanged if that fails."""
    path = entry.path()
    if path is None:
        return decoded
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path.parent) as scratch:
            _write(scratch, decoded)
            _publish(scratch, path, entry.name)
    except OSError as error:
        warnings.warn(
            f"{entry.name} cannot be cached in {path} ({error}); the next start will decode it "
            f"again. Set `JAXMODELS_CACHE` to another folder.",
            stacklevel=2,
        )
        return decoded
    return read_cached(entry) or decoded


def _read(path: Path, name: str) -> ArraySource:
    about = json.loads((path / "about.json").read_text())
    arrays = {key: _open(path / file, number) for key, (file, number) in about["files"].items()}
    return ArraySource(name, arrays)


def _open(path: Path, checksum: int) -> np.ndarray:
    actual = _checksum(path)
    if actual != checksum:
        raise ValueError(f"{path.name} has the checksum {actual}; it was written with {checksum}")
    # A plain view: indexing a numpy.memmap costs more than indexing an array.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def _checksum(path: Path) -> int:
    # 20 ms for MNIST's 47 MB, which training reads anyway.
    return zlib.crc32(np.memmap(path, np.uint8, "r").data)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, decoded: ArraySource) -> None:
    files = {}
    for number, (key, array) in enumerate(decoded.arrays.items()):
        name = f"{number}.npy"  # a field's name may hold a slash
        np.save(folder / name, array)
        files[key] = (name, _checksum(folder / name))
    about = {"name": decoded.name, "files": files}
    (folder / "about.json").write_text(json.dumps(about))


def _publish(scratch: Path, path: Path, name: str) -> None:
    """Rename a finished folder to `path`, unless another process has written a good one there."""
    try:
        scratch.rename(path)
    except OSError:
        with contextlib.suppress(*DAMAGE):
            _read(path, name)
            return
        # A process that still reads the damaged files keeps them until it ends.
        path.rename(scratch / "damaged")
        scratch.rename(path)
        shutil.rmtree(path / "damaged", ignore_errors=True)
