"""A ragged array: sequences of different lengths in one flat array."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError
from jaxmodels.special_tokens import BOS, EOS, PAD, UNK


@dataclass(frozen=True, eq=False)
class RaggedArray:
    """A ragged array; sequence i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """The length of each sequence."""
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, indices: np.ndarray, width: int) -> np.ndarray:
        """Several sequences, padded on the right: (B, width)."""
        starts, stops = self.offsets[indices, None], self.offsets[indices + 1, None]
        positions = starts + np.arange(width)
        inside = positions < stops
        return np.where(inside, self.ids[np.where(inside, positions, 0)], np.int32(PAD))


def add_bos_eos(sentences: Sequence[Ids], name: str) -> RaggedArray:
    """Add `<bos>` and `<eos>` to each sentence.

    Raises `UserError` for a sentence that is empty, or already has one of these or padding.
    """
    arrays = [_checked(sentence, index, name) for index, sentence in enumerate(sentences)]
    ends = np.cumsum([len(ids) for ids in arrays])
    flat = np.concatenate(arrays)
    wrong = np.flatnonzero((flat <= EOS) & (flat != UNK))
    if len(wrong):
        index = int(np.searchsorted(ends, wrong[0], side="right"))
        raise UserError(
            f"Sentence {index} of {name} holds the special token {flat[wrong[0]]}: padding "
            f"({PAD}), <bos> ({BOS}) and <eos> ({EOS}) are added here; give the words alone."
        )
    offsets = np.concatenate([[0], ends + 2 * np.arange(1, len(ends) + 1)])
    ids = np.full(offsets[-1], BOS, np.int32)
    ids[offsets[1:] - 1] = EOS
    words = np.ones(len(ids), bool)
    words[offsets[:-1]] = words[offsets[1:] - 1] = False
    ids[words] = flat
    return RaggedArray(ids, offsets)


def _checked(sentence: Ids, index: int, name: str) -> np.ndarray:
    ids = np.asarray(sentence)
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise UserError(
            f"Sentence {index} of {name} must be ids of tokens, integers on one axis, at least "
            f"one; got {ids.dtype} of shape {ids.shape}."
        )
    return ids
