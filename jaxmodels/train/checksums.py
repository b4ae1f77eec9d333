"""Checksums of a folder's files, and small JSON files that vouch for themselves.

CRC-32 finds every run of up to 32 wrong bits and misses other damage once in 4 billion. It reads
1.5 GB/s on one core, twice to three times as fast as the cryptographic digests of `hashlib`, which
guard against forgery. A file is summed by blocks, several at a time.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

BLOCK = 64 << 20
"""Bytes under one checksum. Part of the file format: other blocks, other sums."""
_CHUNK = 1 << 20
_THREADS = 4

Files = dict[str, dict[str, Any]]
"""By path relative to the folder: `{"bytes": size, "crc32": [one for each block]}`."""


class BrokenError(ValueError):
    """A sealed file that cannot be read, or whose content isn't what was written."""


def of_folder(folder: epath.Path) -> Files:
    """Sizes and checksums of all files in `folder` and below."""
    sizes = {name: (folder / name).stat().length for name in sorted(_names(folder))}
    sums = _sums(folder, sizes)
    return {name: {"bytes": size, "crc32": sums[name]} for name, size in sizes.items()}


def damage(folder: epath.Path, files: Files) -> list[str]:
    """What is wrong with `folder`, a line for each file: nothing if it is what `files` says."""
    found = {name: _size(folder / name) for name in files}
    whole = {name: size for name, size in found.items() if size == files[name]["bytes"]}
    sums = _sums(folder, whole)
    lines = []
    for name, entry in files.items():
        if found[name] is None:
            lines.append(f"{name}: missing")
        elif name not in whole:
            lines.append(f"{name}: {found[name]} bytes, {entry['bytes']} were written")
        elif sums[name] != entry["crc32"]:
            lines.append(f"{name}: checksum differs")
    return lines


def write_sealed(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON together with its checksum, atomically."""
    text = json.dumps(content)
    partial = path.parent / f"{path.name}.partial"
    partial.write_text(f'{{"crc32": {zlib.crc32(text.encode())},\n"content": {text}}}\n')
    partial.replace(path)


def read_sealed(path: epath.Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote; `BrokenError` if it is anything else, or nothing."""
    try:
        sealed = json.loads(path.read_bytes())
        content, crc = sealed["content"], sealed["crc32"]
    except FileNotFoundError:
        raise BrokenError("missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenError(f"unreadable ({error})") from None
    # Dumping what was loaded gives the text that was written: key order and floats are kept.
    if zlib.crc32(json.dumps(content).encode()) != crc:
        raise BrokenError("checksum differs")
    return content


def _names(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for child in folder.iterdir():
        if child.is_dir():
            yield from _names(child, f"{prefix}{child.name}/")
        else:
            yield prefix + child.name


def _size(path: epath.Path) -> int | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if status.is_directory else status.length


def _sums(folder: epath.Path, sizes: Mapping[str, int | None]) -> dict[str, list[int]]:
    blocks = [(name, start) for name, size in sizes.items() for start in range(0, size or 0, BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(lambda block: _sum(folder / block[0], block[1]), blocks))
    result = {name: [] for name in sizes}
    for (name, _), crc in zip(blocks, sums, strict=True):
        result[name].append(crc)
    return result


def _sum(path: epath.Path, start: int) -> int:
    crc = 0
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(BLOCK // _CHUNK):
            crc = zlib.crc32(file.read(_CHUNK), crc)  # pyright: ignore[reportArgumentType]  (bytes)
    return crc
