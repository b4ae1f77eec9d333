"""Sentence pairs for translation: source and target ids, padded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from jaxmodels.data.sources import NumpyBatch
from jaxmodels.data.split import Split
from jaxmodels.data.text.parallel_corpora import check_paired
from jaxmodels.data.text.ragged import RaggedArray, add_bos_eos
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError


def pairs(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    name: str = "pairs",
    length: int | None = None,
) -> Split:
    """A split of sentence pairs, from token ids without special tokens.

    Fields: `source` (B, S), `target` (B, T+1), both `<bos>` ... `<eos>` and then padding; `index`
    (B,): the number of the pair. S = T = `length`, by default the largest of `pair_lengths`. Raises
    `UserError` for different numbers of sources and targets, an empty sentence, special tokens, and
    a pair longer than `length`.
    """
    check_paired(name, sources, targets)
    sides = add_bos_eos(sources, f"{name}, sources"), add_bos_eos(targets, f"{name}, targets")
    longest = int(_needed(*sides).max())
    split = Split(PairSource(name, *sides, length or longest), functions=())
    check_pair_lengths(split, length or longest)
    return split


def pair_lengths(split: Split) -> np.ndarray:
    """The length S = T that a batch needs to hold each pair, (len(split),).

    The larger of: the source with `<bos>` and `<eos>`, the target with one of them.
    """
    source = pair_source(split)
    return _needed(source.sources, source.targets)[split.indices(np.arange(len(split)))]


def filter_by_length(split: Split, max_length: int) -> Split:
    """The split without pairs longer than `max_length` (`pair_lengths`), padded to it."""
    kept = split.indices(np.flatnonzero(pair_lengths(split) <= max_length))
    return replace(split, source=replace(pair_source(split), length=max_length), kept=kept)


@dataclass(frozen=True, eq=False)
class PairSource:
    """A source of sentence pairs with `<bos>` and `<eos>`, padded to `length`."""

    name: str
    sources: RaggedArray
    targets: RaggedArray
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.sources.lengths)

    def __getitem__(self, index: int) -> NumpyBatch:
        """One pair, without padding."""
        pair = {"source": self.sources[index], "target": self.targets[index]}
        return {**pair, "index": np.asarray(index, np.int32)}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        """Several pairs, padded to `length`."""
        return self.read_padded(indices, self.length)

    def read_padded(self, indices: np.ndarray, length: int) -> NumpyBatch:
        """Several pairs, padded to a given length, which none of them may exceed."""
        return {
            "source": self.sources.padded(indices, length),
            "target": self.targets.padded(indices, length + 1),
            "index": indices.astype(np.int32),
        }


def pair_source(split: Split) -> PairSource:
    """The pairs of a split; raises `UserError` if it was not made by `pairs`."""
    if not isinstance(split.source, PairSource):
        raise UserError(f"{split.name} is not a split of sentence pairs; `text.pairs` makes one.")
    return split.source


def check_pair_lengths(split: Split, limit: int) -> None:
    """Raise `UserError` if a pair of the split is longer than `limit`."""
    lengths = pair_lengths(split)
    beyond = np.flatnonzero(lengths > limit)
    if len(beyond):
        index = split.indices(beyond[:1])[0]
        raise UserError(
            f"{len(beyond):,} of {len(lengths):,} pairs of {split.name} are longer than {limit}, "
            f"first pair {index}, of {lengths[beyond[0]]}; the longest has {lengths.max()} "
            f"(a source with <bos> and <eos>, a target with one of them). Raise the length, or the "
            f"last boundary, or leave them out: `text.filter_by_length(pairs, {limit})`."
        )


def _needed(sources: RaggedArray, targets: RaggedArray) -> np.ndarray:
    return np.maximum(sources.lengths, targets.lengths - 1)
