"""Sentences and their translations, padded to one length."""

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
    """A split of pairs of sentences, ids of words without special tokens.

    Fields: `source` (B, S), `target` (B, T+1), both `<bos>` ... `<eos>` and then 0; `index` (B,):
    which pair it is. S = T = `length`, by default the longest of `lengths`. Raises `UserError` for
    unequal numbers, an empty sentence, special tokens, and a pair longer than `length`.
    """
    check_paired(name, sources, targets)
    sides = add_bos_eos(sources, f"{name}, sources"), add_bos_eos(targets, f"{name}, targets")
    longest = int(_needed(*sides).max())
    split = Split(PairSource(name, *sides, length or longest), functions=())
    check_pair_lengths(split, length or longest)
    return split


def pair_lengths(split: Split) -> np.ndarray:
    """For each pair of the split the length S = T that a batch must have to hold it.

    It is the longer of: the source with `<bos>` and `<eos>`, the target with one of them.
    """
    source = pair_source(split)
    return _needed(source.sources, source.targets)[split.indices(np.arange(len(split)))]


def filter_by_length(split: Split, length: int) -> Split:
    """The split without pairs longer than this, as `lengths` counts, and padded to it."""
    kept = split.indices(np.flatnonzero(pair_lengths(split) <= length))
    return replace(split, source=replace(pair_source(split), length=length), kept=kept)


@dataclass(frozen=True, eq=False)
class PairSource:
    """Pairs of sentences with their ends; `length` is what they are padded to."""

    name: str
    sources: RaggedArray
    targets: RaggedArray
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.sources.lengths)

    def __getitem__(self, index: int) -> NumpyBatch:
        """One pair, not padded."""
        pair = {"source": self.sources[index], "target": self.targets[index]}
        return {**pair, "index": np.asarray(index, np.int32)}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        """Several pairs, padded to the length of all."""
        return self.at(indices, self.length)

    def at(self, indices: np.ndarray, length: int) -> NumpyBatch:
        """Several pairs, padded to this length, which none of them may exceed."""
        return {
            "source": self.sources.padded(indices, length),
            "target": self.targets.padded(indices, length + 1),
            "index": indices.astype(np.int32),
        }


def pair_source(split: Split) -> PairSource:
    """The split's pairs; raises `UserError` where it has none."""
    if not isinstance(split.source, PairSource):
        raise UserError(f"{split.name} is no split of pairs; `text.pairs` makes one.")
    return split.source


def check_pair_lengths(split: Split, limit: int) -> None:
    """Raise where a pair of the split needs more than `limit`."""
    found = pair_lengths(split)
    beyond = np.flatnonzero(found > limit)
    if len(beyond):
        index = split.indices(beyond[:1])[0]
        raise UserError(
            f"{len(beyond):,} of {len(found):,} pairs of {split.name} are longer than {limit}, "
            f"first pair {index}, which needs {found[beyond[0]]}; the longest needs {found.max()} "
            f"(a source with <bos> and <eos>, a target with one of them). Raise the length, or the "
            f"last boundary, or leave them out: `text.filter_by_length(pairs, {limit})`."
        )


def _needed(sources: RaggedArray, targets: RaggedArray) -> np.ndarray:
    return np.maximum(sources.lengths, targets.lengths - 1)
