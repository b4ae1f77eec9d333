"""Sentences and their translations, padded to one length."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from jaxmodels.data.split import Split
from jaxmodels.data.text.parallel import check_paired
from jaxmodels.data.text.ragged import Ragged, with_ends
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError

Arrays = dict[str, np.ndarray]


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
    sides = with_ends(sources, f"{name}, sources"), with_ends(targets, f"{name}, targets")
    longest = int(_needed(*sides).max())
    split = Split(Pairs(name, *sides, length or longest), functions=())
    check_longest(split, length or longest)
    return split


def lengths(split: Split) -> np.ndarray:
    """For each pair of the split the length S = T that a batch must have to hold it.

    It is the longer of: the source with `<bos>` and `<eos>`, the target with one of them.
    """
    source = source_of(split)
    return _needed(source.sources, source.targets)[split.indices(np.arange(len(split)))]


def at_most(split: Split, length: int) -> Split:
    """The split without pairs longer than this, as `lengths` counts, and padded to it."""
    kept = split.indices(np.flatnonzero(lengths(split) <= length))
    return replace(split, source=replace(source_of(split), length=length), kept=kept)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of sentences with their ends; `length` is what they are padded to."""

    name: str
    sources: Ragged
    targets: Ragged
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.sources.lengths)

    def __getitem__(self, index: int) -> Arrays:
        """One pair, not padded."""
        pair = {"source": self.sources[index], "target": self.targets[index]}
        return {**pair, "index": np.asarray(index, np.int32)}

    def read(self, indices: np.ndarray) -> Arrays:
        """Several pairs, padded to the length of all."""
        return self.at(indices, self.length)

    def at(self, indices: np.ndarray, length: int) -> Arrays:
        """Several pairs, padded to this length, which none of them may exceed."""
        return {
            "source": self.sources.padded(indices, length),
            "target": self.targets.padded(indices, length + 1),
            "index": indices.astype(np.int32),
        }


def source_of(split: Split) -> Pairs:
    """The split's pairs; raises `UserError` where it has none."""
    if not isinstance(split.source, Pairs):
        raise UserError(f"{split.name} is no split of pairs; `text.pairs` makes one.")
    return split.source


def check_longest(split: Split, limit: int) -> None:
    """Raise where a pair of the split needs more than `limit`."""
    found = lengths(split)
    beyond = np.flatnonzero(found > limit)
    if len(beyond):
        index = split.indices(beyond[:1])[0]
        raise UserError(
            f"{len(beyond):,} of {len(found):,} pairs of {split.name} are longer than {limit}, "
            f"first pair {index}, which needs {found[beyond[0]]}; the longest needs {found.max()} "
            f"(a source with <bos> and <eos>, a target with one of them). Raise the length, or the "
            f"last boundary, or leave them out: `text.at_most(pairs, {limit})`."
        )


def _needed(sources: Ragged, targets: Ragged) -> np.ndarray:
    return np.maximum(sources.lengths, targets.lengths - 1)
