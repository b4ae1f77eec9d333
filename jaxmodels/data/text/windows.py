"""Fixed-length windows of a text for language models; targets are the tokens shifted by one."""

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
    """All (overlapping) windows of `length` tokens, one from each token: for training.

    Fields: `tokens`, `targets` (B, T). An epoch of `.batches(B)` has a window from every token, and
    its shuffling costs 0.1 s per million tokens; for much longer texts, and for evaluation, use
    `disjoint_windows`. `ids` may be a memory-mapped file of any integer dtype. Raises `UserError`
    for a text of fewer than `length + 1` tokens, and, if `vocab_size` is given, for an id that is
    not below it.
    """
    check_window_length(length)
    return Split(
        WindowSource(name, check_token_ids(ids, name, length + 1, vocab_size), length), functions=()
    )


def disjoint_windows(
    ids: Ids, length: int, name: str = "text/test", vocab_size: int | None = None
) -> Split:
    """Disjoint windows of `length` tokens: every token except the first is a target once.

    Fields: `tokens`, `targets` (B, T) and `valid` (B, T), False for the padding of the last window.
    Raises `UserError` for a text of fewer than 2 tokens.
    """
    check_window_length(length)
    return Split(
        DisjointWindowSource(name, check_token_ids(ids, name, 2, vocab_size), length), functions=()
    )


@dataclass(frozen=True, eq=False)
class WindowSource:
    """Overlapping windows; window i is the tokens i..i+length-1."""

    name: str
    ids: np.ndarray
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.ids) - self.length

    def __getitem__(self, index: int) -> NumpyBatch:
        return {key: rows[0] for key, rows in self.read(np.array([index])).items()}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        ids = self.ids[indices[:, None] + np.arange(self.length + 1)]
        return {"tokens": to_int32(ids[:, :-1]), "targets": to_int32(ids[:, 1:])}


@dataclass(frozen=True, eq=False)
class DisjointWindowSource:
    """Disjoint windows; window i is the tokens i*length..(i+1)*length-1."""

    name: str
    ids: np.ndarray
    length: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return math.ceil((len(self.ids) - 1) / self.length)

    def __getitem__(self, index: int) -> NumpyBatch:
        return {key: rows[0] for key, rows in self.read(np.array([index])).items()}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        return targets_in_range(self.ids, indices * self.length, len(self.ids) - 1, self.length)


def targets_in_range(
    ids: np.ndarray, starts: np.ndarray, stops: np.ndarray | int, length: int
) -> NumpyBatch:
    """Windows that begin at `starts`; `valid` for input positions before the row's stop."""
    positions = starts[:, None] + np.arange(length)
    valid = positions < np.asarray(stops).reshape(-1, 1)
    tokens = np.where(valid, ids[np.where(valid, positions, 0)], PAD)
    targets = np.where(valid, ids[np.where(valid, positions + 1, 0)], PAD)
    return {"tokens": to_int32(tokens), "targets": to_int32(targets), "valid": valid}
