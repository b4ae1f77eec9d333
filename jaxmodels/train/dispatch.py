"""Asynchronous dispatch, but not without limit."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import jax

RUN_AHEAD = 2
"""Programs dispatched before the oldest is awaited: the device never waits for the host, and no
more batches than these lie in its memory. On CPUs of several processes, more than the 32 programs
that jax runs at a time deadlock in their collectives.
"""


def run_ahead(results: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of dispatched programs, with at most `RUN_AHEAD` others dispatched."""
    pending: deque[Any] = deque()
    for result in results:
        pending.append(result)
        if len(pending) > RUN_AHEAD:
            yield jax.block_until_ready(pending.popleft())
    yield from pending
