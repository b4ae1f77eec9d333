"""Windows of a text, for language models that begin each of them anew.

The targets of a window are its tokens shifted by one.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxmodels.data.sources import NumpyBatch
from jaxmodels.data.split import Split
from jaxmodels.data.text.token_ids import check_token_ids, check_window_length, to_int32
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.special_tokens import PAD


def windows(
    ids: Ids, length: int, name: str = "text/train", vocab_size: int | None = None
) -> Split:
    """All windows of `length` tokens, one starting at each token: for training.

    Fields: `tokens`, `targets` (B, T). An epoch of `.batches(B)` begins at every token once, so its
    order costs 0.1 s a million tokens; for much longer texts train on `blocks`. To evaluate use
    `blocks` as well, since windows overlap. `ids` may be a mapped file of any integers. Raises
    `UserError` for a text of fewer than `length + 1` tokens, and for an id that is not below
    `vocab_size`, if that is given.
    """
    check_window_length(length)
    return Split(
        WindowSource(name, check_token_ids(ids, name, length + 1, vocab_size), length), functions=()
    )


def disjoint_windows(
    ids: Ids, length: int, name: str = "text/test", vocab_size: int | None = None
) -> Split:
    """Windows of `length` tokens, one beginning where the other ends: every target exactly once.

    Fields: `tokens`, `targets` (B, T) and `valid` (B, T), False where the last one is filled up.
    The first token of the text is no target. Raises `UserError` for a text of fewer than 2 tokens.
    """
    check_window_length(length)
    return Split(
        DisjointWindowSource(name, check_token_ids(ids, name, 2, vocab_size), length), functions=()
    )


@dataclass(frozen=True, eq=False)
class WindowSource:
    """Window i is the tokens i..i+length-1."""

    name: str
    ids: np.ndarray
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        """How many places a window can begin at."""
        return len(self.ids) - self.length

    def __getitem__(self, index: int) -> NumpyBatch:
        """One window."""
        return {key: rows[0] for key, rows in self.read(np.array([index])).items()}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        """Several windows, in one gather."""
        places = indices[:, None] + np.arange(self.length + 1)
        found = self.ids[places]
        return {"tokens": to_int32(found[:, :-1]), "targets": to_int32(found[:, 1:])}


@dataclass(frozen=True, eq=False)
class DisjointWindowSource:
    """Window i is the tokens i*length..(i+1)*length-1."""

    name: str
    ids: np.ndarray
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        """How many windows hold all targets."""
        return math.ceil((len(self.ids) - 1) / self.length)

    def __getitem__(self, index: int) -> NumpyBatch:
        """One window."""
        return {key: rows[0] for key, rows in self.read(np.array([index])).items()}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        """Several windows, in one gather."""
        return targets_in_range(self.ids, indices * self.length, len(self.ids) - 1, self.length)


def targets_in_range(
    ids: np.ndarray, starts: np.ndarray, stops: np.ndarray | int, length: int
) -> NumpyBatch:
    """Windows from `starts` on; `valid` where the input stands before its row's stop."""
    places = starts[:, None] + np.arange(length)
    valid = places < np.asarray(stops).reshape(-1, 1)
    tokens = np.where(valid, ids[np.where(valid, places, 0)], PAD)
    targets = np.where(valid, ids[np.where(valid, places + 1, 0)], PAD)
    return {"tokens": to_int32(tokens), "targets": to_int32(targets), "valid": valid}
