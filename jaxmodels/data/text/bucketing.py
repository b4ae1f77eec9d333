"""Length bucketing: batches of sentence pairs of similar length, with little padding."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from jaxmodels.data.batches import check_batch_size, check_rows, read_ahead
from jaxmodels.data.shuffle import permutation
from jaxmodels.data.sources import NumpyBatch
from jaxmodels.data.split import Split
from jaxmodels.data.text.pairs import check_pair_lengths, pair_lengths, pair_source
from jaxmodels.data.text.stream import batch_spec
from jaxmodels.errors import UserError
from jaxmodels.typing import Batch, Key

BATCH_ORDER = 2**63
"""Added to the epoch to shuffle its batches by another permutation than its pairs."""


def bucket_by_length(
    split: Split, batch_size: int, boundaries: Sequence[int], seed: int = 0
) -> "BucketedBatches":
    """Batches of sentence pairs (`text.pairs`) bucketed by length, for training.

    Every batch is padded to a boundary (S = T = boundary), so a step is compiled once for each
    boundary. Raises `UserError` for a pair longer than the last boundary, for boundaries that are
    not increasing, and for a split smaller than a batch.
    """
    check_batch_size(batch_size)
    edges = tuple(boundaries)
    if not edges or edges[0] < 1 or edges != tuple(sorted(set(edges))):
        raise UserError(
            f"Boundaries must be increasing lengths, such as (10, 20, 40); got {edges}."
        )
    check_pair_lengths(split, edges[-1])
    if len(split) < batch_size:
        raise UserError(
            f"{split.name} has {len(split):,} pairs, fewer than a batch of {batch_size:,}; choose "
            f"a smaller batch size."
        )
    return BucketedBatches(split, batch_size, edges, seed)


@dataclass(frozen=True, eq=False)
class BucketedBatches:
    """An endless stream of bucketed batches; batch n depends on (split, seed, n) only.

    In every epoch the pairs are shuffled, sorted by bucket (stably) and cut into batches, which are
    shuffled. A batch across two buckets is padded to the longer one. The remainder of the division
    by the batch size is left out, in every epoch other pairs.
    """

    split: Split
    batch_size: int
    boundaries: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise UserError(f"The seed must be in 0..2**64-1; it is {self.seed}.")

    def __getitem__(self, n: int) -> NumpyBatch:
        return self.read(n, np.arange(self.batch_size))

    def read(self, n: int, rows: np.ndarray) -> NumpyBatch:
        """Some rows of batch n, padded as the whole batch is: those that a host's devices hold."""
        if n < 0:
            raise UserError(f"Batches are numbered from 0; asked for batch {n}.")
        epoch, step = divmod(n, self.steps_per_epoch)
        positions, lengths = _epoch_batches(self, epoch)
        chosen = positions[step, check_rows(rows, self.batch_size)]
        indices = self.split.indices(chosen)
        return pair_source(self.split).read_padded(indices, int(lengths[step]))

    def iterate(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Iterator[NumpyBatch]:
        """Yield batches start..stop-1, or some rows of each."""
        rows = np.arange(self.batch_size) if rows is None else rows
        return read_ahead(lambda n: self.read(n, rows), start, stop, in_memory=True)

    def reseed(self, seed: int) -> "BucketedBatches":
        """The same pairs, grouped and ordered by another seed."""
        return replace(self, seed=seed)

    def prepare(self, key: Key, batch: Batch) -> Batch:
        del key
        return self.split.preprocess(batch)

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch of the longest bucket."""
        longest = pair_source(self.split).read_padded(np.array([0]), self.boundaries[-1])
        return batch_spec(longest, self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return len(self.split) // self.batch_size

    @functools.cached_property
    def buckets(self) -> np.ndarray:
        """The bucket of each pair: the index of the smallest boundary that holds it."""
        return np.searchsorted(self.boundaries, pair_lengths(self.split))


@functools.lru_cache(maxsize=4)
def _epoch_batches(batches: BucketedBatches, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of an epoch's batches, (steps, B), and the padded length of each, (steps,)."""
    size, steps = batches.batch_size, batches.steps_per_epoch
    shuffled = permutation(len(batches.split), batches.seed, epoch)[: steps * size]
    by_bucket = shuffled[np.argsort(batches.buckets[shuffled], kind="stable")].reshape(steps, size)
    lengths = np.asarray(batches.boundaries)[batches.buckets[by_bucket[:, -1]]]
    order = permutation(steps, batches.seed, epoch + BATCH_ORDER)
    return by_bucket[order], lengths[order]
