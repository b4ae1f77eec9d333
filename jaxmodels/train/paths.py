"""Paths on disk and addresses in buckets, such as `gs://bucket/run`."""

import os

from etils import epath


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether it is an address, and no path."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """The path from the root, or the address: the same for every spelling."""
    found = epath.Path(path)
    return found if in_bucket(found) else found.resolve()
