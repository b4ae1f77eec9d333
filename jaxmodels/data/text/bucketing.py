"""Batches of pairs of about equal length, so that little of them is padding."""

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
"""Added to the epoch for the order of its batches, which is another draw than that of its pairs."""


def bucket_by_length(
    split: Split, batch_size: int, boundaries: Sequence[int], seed: int = 0
) -> "BucketedBatches":
    """Batches of pairs (`text.pairs`) whose lengths lie between the same two boundaries.

    Every batch is padded to a boundary (S = T = boundary), so a step is compiled once for each of
    them. Raises `UserError` for a pair longer than the last boundary, for boundaries that do not
    rise, and for a split smaller than a batch.
    """
    check_batch_size(batch_size)
    edges = tuple(boundaries)
    if not edges or edges[0] < 1 or edges != tuple(sorted(set(edges))):
        raise UserError(f"Boundaries must be rising lengths, such as (10, 20, 40); got {edges}.")
    check_pair_lengths(split, edges[-1])
    if len(split) < batch_size:
        raise UserError(
            f"{split.name} has {len(split):,} pairs, fewer than a batch of {batch_size:,}; choose "
            f"a smaller batch size."
        )
    return BucketedBatches(split, batch_size, edges, seed)


@dataclass(frozen=True, eq=False)
class BucketedBatches:
    """An endless stream: in each epoch another grouping of the pairs, in another order.

    The pairs are drawn in a random order, sorted by bucket, and cut into batches; a batch across a
    bucket's end is padded to the longer of its pairs' boundaries. Then the batches are put in a
    random order. What is beyond a multiple of the batch size, fewer pairs than a batch, is left
    out, in every epoch other ones. Batch n depends on (split, seed, n) alone.
    """

    split: Split
    batch_size: int
    boundaries: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no seed."""
        if not 0 <= self.seed < 2**64:
            raise UserError(f"The seed must be in 0..2**64-1; it is {self.seed}.")

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n."""
        return self.read(n, np.arange(self.batch_size))

    def read(self, n: int, rows: np.ndarray) -> NumpyBatch:
        """Rows of batch n, padded as all of it is: a host reads what its devices hold."""
        if n < 0:
            raise UserError(f"Batches are numbered from 0; asked for batch {n}.")
        epoch, place = divmod(n, self.steps_per_epoch)
        positions, width = _plan(self, epoch)
        chosen = positions[place, check_rows(rows, self.batch_size)]
        return pair_source(self.split).at(self.split.indices(chosen), int(width[place]))

    def iterate(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Iterator[NumpyBatch]:
        """Batches start..stop-1, of each the given rows."""
        rows = np.arange(self.batch_size) if rows is None else rows
        return read_ahead(lambda n: self.read(n, rows), start, stop, in_memory=True)

    def reseed(self, seed: int) -> "BucketedBatches":
        """The same pairs, grouped and ordered by another seed."""
        return replace(self, seed=seed)

    def prepare(self, key: Key, batch: Batch) -> Batch:
        """The batch as the split's preprocessing makes it."""
        del key
        return self.split.preprocess(batch)

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch of the longest pairs."""
        longest = pair_source(self.split).at(np.array([0]), self.boundaries[-1])
        return batch_spec(longest, self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return len(self.split) // self.batch_size

    @functools.cached_property
    def buckets(self) -> np.ndarray:
        """The bucket of each pair: that of the first boundary that is not below its length."""
        return np.searchsorted(self.boundaries, pair_lengths(self.split))


@functools.lru_cache(maxsize=4)
def _plan(batches: BucketedBatches, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of each batch's pairs, (batches, B), and the length each is padded to."""
    size, steps = batches.batch_size, batches.steps_per_epoch
    drawn = permutation(len(batches.split), batches.seed, epoch)[: steps * size]
    by_bucket = drawn[np.argsort(batches.buckets[drawn], kind="stable")].reshape(steps, size)
    widths = np.asarray(batches.boundaries)[batches.buckets[by_bucket[:, -1]]]
    order = permutation(steps, batches.seed, epoch + BATCH_ORDER)
    return by_bucket[order], widths[order]
