"""Shuffled and padded batches, indexed by number: a stateless input pipeline."""

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from jaxmodels.data.shuffle import shuffled
from jaxmodels.data.sources import NumpyBatch
from jaxmodels.errors import UserError
from jaxmodels.typing import Batch, Key


@runtime_checkable
class Examples(Protocol):
    """The part of `Split` that batches read from."""

    @property
    def name(self) -> str: ...

    @property
    def in_memory(self) -> bool:
        """Whether reading is too fast for threads to pay."""
        ...

    def __len__(self) -> int: ...

    def read(self, positions: np.ndarray) -> NumpyBatch:
        """The examples at these positions, stacked."""
        ...

    def preprocess(self, batch: Batch) -> Batch:
        """Turn a raw batch into a model's input, on the device."""
        ...

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]: ...


@dataclass(frozen=True, eq=False)
class Batches:
    """An endless stream of shuffled batches: `batches[n]` depends on (source, seed, n) only.

    Every epoch has its own permutation. Batch n holds positions n*B..n*B+B-1 of the epochs put one
    after another, so every example comes exactly once an epoch, even if a batch spans two epochs.
    """

    split: Examples
    batch_size: int
    transform: Callable[[Key, Batch], Batch] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if not 0 <= self.seed < 2**64:
            raise UserError(f"The seed must be in 0..2**64-1; it is {self.seed}.")

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n, not preprocessed."""
        return self.read(n, np.arange(self.batch_size))

    def __iter__(self) -> Iterator[NumpyBatch]:
        return map(self.__getitem__, itertools.count())

    def read(self, n: int, rows: np.ndarray) -> NumpyBatch:
        """Some rows (in 0..batch_size-1) of batch n: a host reads those that its devices hold."""
        if n < 0:
            raise UserError(f"Batches are numbered from 0; asked for batch {n}.")
        rows = check_rows(rows, self.batch_size)
        positions = np.int64(n) * self.batch_size + rows
        return self.split.read(shuffled(positions, len(self.split), self.seed))

    def iterate(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Iterator[NumpyBatch]:
        """Yield batches start..stop-1, or some rows of each, prefetched by threads from disk."""
        rows = np.arange(self.batch_size) if rows is None else rows
        return read_ahead(lambda n: self.read(n, rows), start, stop, self.split.in_memory)

    def reseed(self, seed: int) -> "Batches":
        """The same examples in the order of another seed."""
        return replace(self, seed=seed)

    def prepare(self, key: Key, batch: Batch) -> Batch:
        """Preprocess a raw batch and apply the random transform; pure jax, for the jitted step."""
        batch = self.split.preprocess(batch)
        return batch if self.transform is None else self.transform(key, batch)

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a raw batch, as `train.init` takes them."""
        return self.split.example(self.batch_size)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in an epoch; not rounded."""
        return len(self.split) / self.batch_size


@dataclass(frozen=True, eq=False)
class Padded:
    """Batches for evaluation: every example once, in order; the last batch is padded.

    `mask` (B,) is False for padding. The number and size of batches is the same on every host,
    whatever `rows` it reads.
    """

    split: Examples
    batch_size: int
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n, or its `rows`, not preprocessed, with `mask`."""
        if not 0 <= n < len(self):
            raise IndexError(f"{self.split.name} has {len(self)} padded batches; asked for {n}.")
        rows = np.arange(self.batch_size) if self.rows is None else self.rows
        positions = n * self.batch_size + check_rows(rows, self.batch_size)
        mask = positions < len(self.split)
        # Padding repeats the batch's first example: unlike zeros, it is a valid input.
        filled = np.where(mask, positions, n * self.batch_size)
        return {**self.split.read(filled), "mask": mask}

    def __iter__(self) -> Iterator[NumpyBatch]:
        return read_ahead(self.__getitem__, 0, len(self), self.split.in_memory)


def read_ahead(
    read: Callable[[int], NumpyBatch], start: int, stop: int, in_memory: bool
) -> Iterator[NumpyBatch]:
    """Yield read(start), ..., read(stop - 1), prefetched by Grain's threads unless in memory."""
    if in_memory:
        return map(read, range(start, stop))
    # Imported here: it takes over a second, which data in memory do not need.
    import grain

    # One element is a whole batch: ten times as fast as one example.
    threads = min(8, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    numbers = grain.MapDataset.range(start, stop)
    return iter(numbers.map(lambda n: read(int(n))).to_iter_dataset(options))


def check_batch_size(batch_size: int) -> None:
    """Raise `UserError` unless the batch size is positive."""
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1; it is {batch_size}.")


def check_rows(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """The rows as an int64 array; raises `UserError` unless all are in 0..batch_size-1."""
    rows = np.asarray(rows, dtype=np.int64)
    if rows.min(initial=0) < 0 or rows.max(initial=0) >= batch_size:
        raise UserError(f"Rows must be in 0..{batch_size - 1}; they are {rows}.")
    return rows
