"""Decoded splits, kept as .npy files and memory-mapped, so that images are decoded only once.

They lie in the user's cache folder (`JAXMODELS_CACHE` names another, `off` turns it off), may be
deleted at any time, and are never trusted: each file is held against its checksum when opened.
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

# In every key: to be raised when the files' meaning changes.
FORMAT = 1
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class CacheEntry:
    """A split in the cache: its full name, the dataset's key with its fingerprint, the split."""

    name: str
    dataset: str
    split: str

    def path(self) -> Path | None:
        """Its folder, or None where the cache is turned off."""
        parent = cache_dir()
        return parent and parent / f"data-{FORMAT}" / self.dataset / self.split


def cache_dir() -> Path | None:
    """The folder that caches may use, or None where they are turned off."""
    chosen = os.environ.get("JAXMODELS_CACHE")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxmodels"
    parent = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(parent) if parent else Path.home() / ".cache") / "jaxmodels"


def fingerprint(files: Sequence[Path]) -> str:
    """Sixteen letters that change when a file is added, removed, resized or written again."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def read_cached(entry: CacheEntry) -> ArraySource | None:
    """The decoded split, or None if there is none, or a damaged one (with a warning)."""
    path = entry.path()
    if path is None or not path.is_dir():
        return None
    try:
        return _read(path, entry.name)
    except DAMAGE as error:
        warnings.warn(f"The decoded copy {path} is damaged: {error}. Made anew.", stacklevel=2)
        return None


def write_cached(entry: CacheEntry, decoded: ArraySource) -> ArraySource:
    """Keep a decoded split; returns it memory-mapped, or as it came where it cannot be kept."""
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
            f"{entry.name} is decoded, but cannot be kept in {path} ({error}); the next start will "
            f"decode it again. `JAXMODELS_CACHE` names another folder.",
            stacklevel=2,
        )
        return decoded
    return read_cached(entry) or decoded


def _read(path: Path, name: str) -> ArraySource:
    about = json.loads((path / "about.json").read_text())
    arrays = {key: _open(path / file, number) for key, (file, number) in about["files"].items()}
    return ArraySource(name, arrays)


def _open(path: Path, checksum: int) -> np.ndarray:
    found = _checksum(path)
    if found != checksum:
        raise ValueError(f"{path.name} has the checksum {found}; it was written with {checksum}")
    # A plain view: indexing a numpy.memmap costs more than indexing an array.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def _checksum(path: Path) -> int:
    # Of all bytes: 20 ms for MNIST's 47 MB, which training would read anyway.
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
    """Move a finished folder to its place, unless another process put a good one there first."""
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
