"""Stateless shuffling: a new permutation for every epoch, a function of (seed, epoch)."""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..size-1 that depends on (size, seed, epoch) only.

    It sorts raw Philox words: numpy guarantees that a bit generator's stream never changes, but not
    `Generator.permutation`, so runs are repeatable across numpy versions.
    """
    # With a given key numpy takes no entropy from the system.
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def shuffled(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The example at each position of an endless stream of shuffled epochs."""
    epochs, offsets = np.divmod(positions, size)
    examples = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        examples[inside] = permutation(size, seed, int(epoch))[offsets[inside]]
    return examples
