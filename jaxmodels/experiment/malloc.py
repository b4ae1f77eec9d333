"""The C library's heap, set so that a step's memory is there again in the next step."""

import ctypes
import sys

# From malloc.h of glibc.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8

ARENAS = 4
"""Threads share these, so that none of them is ever empty, for an empty one is given back."""


def keep_freed_memory() -> None:
    """Let memory that the process has freed stay with it, to be taken again.

    As it starts, glibc gives a large block back to the system when it is freed. A step on a CPU
    takes and frees all its intermediate values, so that the system has to find and clear the same
    pages again in each step: up to a quarter of the time. What the process holds never shrinks
    from here on. To be called before threads are started. Without glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ARENA_MAX, ARENAS)
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
