"""A text as numbers: what may be cut into windows."""

import numpy as np

from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError


def check_token_ids(
    ids: Ids, name: str, at_least: int, vocab_size: int | None = None
) -> np.ndarray:
    """The ids as they are stored; raises `UserError` unless they are so many integers on one axis.

    They are looked through only if the size of the vocabulary is given: a mapped file may be large.
    """
    found = np.asarray(ids)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise UserError(
            f"The text of {name} must be ids of tokens, integers on one axis; got {found.dtype} of "
            f"shape {found.shape}."
        )
    if len(found) < at_least:
        raise UserError(
            f"The text of {name} has {len(found):,} tokens; it needs at least {at_least:,}. Choose "
            f"a shorter length, fewer rows, or a longer text."
        )
    if vocab_size is not None:
        wrong = np.flatnonzero((found < 0) | (found >= vocab_size))
        if len(wrong):
            raise UserError(
                f"Token {wrong[0]:,} of {name} has the id {found[wrong[0]]}; with a vocabulary of "
                f"{vocab_size:,} it must be in 0..{vocab_size - 1}."
            )
    return found


def check_window_length(length: int) -> None:
    """Raise unless it is a positive number."""
    if length < 1:
        raise UserError(f"The length of a window must be at least 1 token; it is {length}.")


def to_int32(ids: np.ndarray) -> np.ndarray:
    """The ids as batches hold them, int32."""
    return np.ascontiguousarray(ids, np.int32)
