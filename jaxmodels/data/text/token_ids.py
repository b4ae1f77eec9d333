"""Validation of token ids."""

import numpy as np

from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError


def check_token_ids(
    ids: Ids, name: str, at_least: int, vocab_size: int | None = None
) -> np.ndarray:
    """Token ids as an array, (T,); raises `UserError` unless they are integers, enough of them.

    Values are checked only if `vocab_size` is given, since a memory-mapped file may be large.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UserError(
            f"The text of {name} must be token ids, integers on one axis; got {array.dtype} of "
            f"shape {array.shape}."
        )
    if len(array) < at_least:
        raise UserError(
            f"The text of {name} has {len(array):,} tokens; it needs at least {at_least:,}. Choose "
            f"a shorter length, fewer rows, or a longer text."
        )
    if vocab_size is not None:
        wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
        if len(wrong):
            raise UserError(
                f"Token {wrong[0]:,} of {name} has the id {array[wrong[0]]}; with a vocabulary of "
                f"{vocab_size:,} it must be in 0..{vocab_size - 1}."
            )
    return array


def check_window_length(length: int) -> None:
    """Raise `UserError` unless the length is positive."""
    if length < 1:
        raise UserError(f"The length of a window must be at least 1 token; it is {length}.")


def to_int32(ids: np.ndarray) -> np.ndarray:
    """The ids as contiguous int32, as in batches."""
    return np.ascontiguousarray(ids, np.int32)
