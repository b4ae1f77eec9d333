"""The order in which examples are seen: a new permutation for every epoch."""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..size-1, determined by (size, seed, epoch) alone.

    It sorts raw Philox words: numpy promises that a bit generator's stream never changes, and
    promises no such thing for `Generator.permutation`, so runs stay repeatable across versions.
    """
    # numpy draws nothing from the system when the key is given.
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def shuffled(places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Which example stands at each place of the endless stream of reshuffled epochs."""
    epochs, offsets = np.divmod(places, size)
    found = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        found[inside] = permutation(size, seed, int(epoch))[offsets[inside]]
    return found
