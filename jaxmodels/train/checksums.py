"""CRC-32 checksums of a folder's files, and JSON files that contain their own checksum.

CRC-32 detects every burst of up to 32 wrong bits, and misses other damage once in 4 billion. It
reads 1.5 GB/s on one core, two to three times faster than the cryptographic digests of `hashlib`.
Files are read in blocks by several threads.
"""

import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from jaxmodels.train.paths import in_bucket

BLOCK = 64 << 20
"""Bytes per checksum; part of the file format."""
_CHUNK = 1 << 20
_THREADS = 4

Files = dict[str, dict[str, Any]]
"""By path relative to the folder: `{"bytes": size, "crc32": [one for each block]}`."""


class CorruptFileError(ValueError):
    """A checksummed JSON file is missing, unreadable, or does not match its checksum."""


def compute_checksums(folder: epath.Path) -> Files:
    """Sizes and checksums of all files in `folder`, recursively."""
    sizes = {name: _size(folder / name) for name in sorted(_list_files(folder))}
    sums = _checksum_blocks(folder, sizes)
    return {name: {"bytes": size, "crc32": sums[name]} for name, size in sizes.items()}


def find_damage(folder: epath.Path, files: Files) -> list[str]:
    """A line for each file in `folder` that differs from `files`; empty if all match."""
    found = {name: _size(folder / name) for name in files}
    whole = {name: size for name, size in found.items() if size == files[name]["bytes"]}
    sums = _checksum_blocks(folder, whole)
    lines = []
    for name, entry in files.items():
        if found[name] is None:
            lines.append(f"{name}: missing")
        elif name not in whole:
            lines.append(f"{name}: {found[name]} bytes, {entry['bytes']} were written")
        elif sums[name] != entry["crc32"]:
            lines.append(f"{name}: checksum differs")
    return lines


def write_checksummed_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON together with its checksum, atomically."""
    text = json.dumps(content)
    partial = path.parent / f"{path.name}.partial"
    partial.write_text(f'{{"crc32": {zlib.crc32(text.encode())},\n"content": {text}}}\n')
    partial.replace(path)


def read_checksummed_json(path: epath.Path) -> dict[str, Any]:
    """Read a file of `write_checksummed_json`; raises `CorruptFileError` if it does not verify."""
    try:
        sealed = json.loads(path.read_bytes())
        content, crc = sealed["content"], sealed["crc32"]
    except FileNotFoundError:
        raise CorruptFileError("missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"unreadable ({error})") from None
    # json.dumps of the loaded content is the written text: key order and floats are kept.
    if zlib.crc32(json.dumps(content).encode()) != crc:
        raise CorruptFileError("checksum differs")
    return content


def _list_files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for child in folder.iterdir():
        if child.is_dir():
            yield from _list_files(child, f"{prefix}{child.name}/")
        else:
            yield prefix + child.name


def _size(path: epath.Path) -> int | None:
    try:
        if in_bucket(path):
            found = path.stat()
            return None if found.is_directory else found.length
        # Not epath's `stat`, which asks for the owner's name: a container's user may have none.
        status = os.stat(path)
        return None if stat.S_ISDIR(status.st_mode) else status.st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _checksum_blocks(folder: epath.Path, sizes: Mapping[str, int | None]) -> dict[str, list[int]]:
    blocks = [(name, start) for name, size in sizes.items() for start in range(0, size or 0, BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(lambda block: _checksum_block(folder / block[0], block[1]), blocks))
    result = {name: [] for name in sizes}
    for (name, _), crc in zip(blocks, sums, strict=True):
        result[name].append(crc)
    return result


def _checksum_block(path: epath.Path, start: int) -> int:
    crc = 0
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(BLOCK // _CHUNK):
            crc = zlib.crc32(file.read(_CHUNK), crc)  # pyright: ignore[reportArgumentType]  (bytes)
    return crc
