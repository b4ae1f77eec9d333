"""Streams of batches that are indexed by number, so that they have no state."""

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
    """What batches are read from: a `Split`."""

    @property
    def name(self) -> str:
        """The source and the split."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether reading takes no time worth a thread."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, positions: np.ndarray) -> NumpyBatch:
        """Several examples, stacked."""
        ...

    def preprocess(self, batch: Batch) -> Batch:
        """Make a raw batch a model's input."""
        ...

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a raw batch."""
        ...


@dataclass(frozen=True, eq=False)
class Batches:
    """An endless stream: batch n holds places n*B..n*B+B-1 of one reshuffled epoch after another.

    So every example comes exactly once an epoch, also where a batch spans two epochs; and
    `batches[n]` depends on nothing but (source, seed, n).
    """

    split: Examples
    batch_size: int
    transform: Callable[[Key, Batch], Batch] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no size or no seed."""
        check_batch_size(self.batch_size)
        if not 0 <= self.seed < 2**64:
            raise UserError(f"The seed must be in 0..2**64-1; it is {self.seed}.")

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n, not preprocessed."""
        return self.read(n, np.arange(self.batch_size))

    def __iter__(self) -> Iterator[NumpyBatch]:
        """Batch 0, 1, 2, ... without end."""
        return map(self.__getitem__, itertools.count())

    def read(self, n: int, rows: np.ndarray) -> NumpyBatch:
        """Rows of batch n, positions in 0..batch_size-1: a host reads what its devices hold."""
        if n < 0:
            raise UserError(f"Batches are numbered from 0; asked for batch {n}.")
        rows = check_rows(rows, self.batch_size)
        places = np.int64(n) * self.batch_size + rows
        return self.split.read(shuffled(places, len(self.split), self.seed))

    def iterate(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Iterator[NumpyBatch]:
        """Batches start..stop-1 (of each the given rows), read ahead unless they are in memory."""
        rows = np.arange(self.batch_size) if rows is None else rows
        return read_ahead(lambda n: self.read(n, rows), start, stop, self.split.in_memory)

    def reseed(self, seed: int) -> "Batches":
        """The same examples in the order of another seed."""
        return replace(self, seed=seed)

    def prepare(self, key: Key, batch: Batch) -> Batch:
        """Make a raw batch a model's input: preprocessing, then the random transform; pure jax."""
        batch = self.split.preprocess(batch)
        return batch if self.transform is None else self.transform(key, batch)

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a raw batch."""
        return self.split.example(self.batch_size)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in an epoch, with the fraction."""
        return len(self.split) / self.batch_size


@dataclass(frozen=True, eq=False)
class Padded:
    """Every example once, in order; the last batch is filled up, and `mask` is False there.

    Its length, and the size of each batch, are the same on every host whatever `rows` it reads.
    """

    split: Examples
    batch_size: int
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        check_batch_size(self.batch_size)

    def __len__(self) -> int:
        """How many batches cover the split."""
        return math.ceil(len(self.split) / self.batch_size)

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n (of it the rows), not preprocessed, with `mask`: True where the row counts."""
        if not 0 <= n < len(self):
            raise IndexError(f"{self.split.name} has {len(self)} padded batches; asked for {n}.")
        rows = np.arange(self.batch_size) if self.rows is None else self.rows
        places = n * self.batch_size + check_rows(rows, self.batch_size)
        mask = places < len(self.split)
        # The first example of the batch stands in: unlike zeros, it surely is a valid input.
        filled = np.where(mask, places, n * self.batch_size)
        return {**self.split.read(filled), "mask": mask}

    def __iter__(self) -> Iterator[NumpyBatch]:
        """The batches in order, read ahead unless they are in memory."""
        return read_ahead(self.__getitem__, 0, len(self), self.split.in_memory)


def read_ahead(
    read: Callable[[int], NumpyBatch], start: int, stop: int, in_memory: bool
) -> Iterator[NumpyBatch]:
    """Yield read(start), ..., read(stop - 1); by Grain's threads, ahead, if not in memory."""
    if in_memory:
        return map(read, range(start, stop))
    # Imported here: it takes over a second, which data in memory need not pay.
    import grain

    # An element is a whole batch: ten times as fast as one example an element.
    threads = min(8, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    numbers = grain.MapDataset.range(start, stop)
    return iter(numbers.map(lambda n: read(int(n))).to_iter_dataset(options))


def check_batch_size(batch_size: int) -> None:
    """Raise unless it is a positive number."""
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1; it is {batch_size}.")


def check_rows(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """The rows as an array of integers; raise unless all are in 0..batch_size-1."""
    rows = np.asarray(rows, dtype=np.int64)
    if rows.min(initial=0) < 0 or rows.max(initial=0) >= batch_size:
        raise UserError(f"Rows must be in 0..{batch_size - 1}; they are {rows}.")
    return rows
