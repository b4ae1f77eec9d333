"""The protocol of vocabularies (tokenizers): encode text as token ids, and decode it."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.special_tokens import UNK

SPECIAL_TOKENS = "<pad>", "<unk>", "<bos>", "<eos>"
"""The first tokens of word and sub-word vocabularies, in the order of their ids."""
UNKNOWN = SPECIAL_TOKENS[UNK]

Ids = Sequence[int] | np.ndarray
Tokenize = Callable[[str], list[str]]


@runtime_checkable
class Vocabulary(Protocol):
    """A vocabulary of characters, bytes, words or sub-words: an immutable value with token ids."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens by id."""
        ...

    def __len__(self) -> int:
        """The number of tokens; ids are 0..len-1."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32."""
        ...

    def decode(self, ids: Ids) -> str:
        """The text of token ids, special tokens included."""
        ...

    def to_json(self) -> str:
        """The vocabulary as JSON text, for `vocabulary_from_json`."""
        ...


def check_same_vocabulary(expected: Vocabulary, found: Vocabulary) -> None:
    """Raise `UserError`, naming the first difference, unless two vocabularies are the same.

    `expected` is the one that a model was trained with, which its run saves:
    `vocabulary_from_json(Path("runs/lstm/vocabulary.json").read_text())`.
    """
    if expected.to_json() == found.to_json():
        return
    raise UserError(
        f"The vocabulary is not the one that the model was trained with: "
        f"{vocabulary_difference(expected, found)}. Use the vocabulary that was saved with the "
        f"model, or train a model with this one."
    )


def vocabulary_difference(expected: Vocabulary, found: Vocabulary) -> str:
    """Describe the first difference between two vocabularies, for an error message."""
    kinds = type(expected).__name__, type(found).__name__
    if kinds[0] != kinds[1]:
        return f"that one is a {kinds[0]}, this one a {kinds[1]}"
    for i, (one, other) in enumerate(zip(expected.tokens, found.tokens, strict=False)):
        if one != other:
            return f"token {i} is {one!r} there and {other!r} here"
    if len(expected) != len(found):
        return f"it has {len(expected):,} tokens there and {len(found):,} here"
    return "the tokens are equal, but texts are split into them in another way"


def check_ids(ids: Ids, size: int) -> np.ndarray:
    """Token ids as an integer array, (T,); raises `UserError` unless all are in 0..size-1."""
    array = np.asarray(ids)
    array = array if array.size else array.astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"Token ids must be integers on one axis; got {array.dtype} of shape {array.shape}."
        )
    wrong = array[(array < 0) | (array >= size)]
    if len(wrong):
        raise UserError(f"Token ids of this vocabulary are 0..{size - 1}; got {wrong[0]}.")
    return array
