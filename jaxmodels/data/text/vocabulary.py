"""What every vocabulary can do: turn a text into numbers and back."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.special_tokens import UNK

SPECIAL = "<pad>", "<unk>", "<bos>", "<eos>"
"""The first tokens of vocabularies of words and sub-words, in the order of their ids."""
UNKNOWN = SPECIAL[UNK]

Ids = Sequence[int] | np.ndarray
Tokenize = Callable[[str], list[str]]


@runtime_checkable
class Vocabulary(Protocol):
    """A frozen value: characters, bytes, words or sub-words."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens by id."""
        ...

    def __len__(self) -> int:
        """How many tokens there are; ids are 0..len-1."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32."""
        ...

    def decode(self, ids: Ids) -> str:
        """The text of these ids, special tokens included."""
        ...

    def to_json(self) -> str:
        """All of it as one JSON text, for `vocabulary_from_json`."""
        ...


def check_same(expected: Vocabulary, found: Vocabulary) -> None:
    """Raise `UserError` with the first difference, where two vocabularies are not the same.

    `expected` is the one that a model was trained with, such as its run keeps:
    `vocabulary_from_json(Path("runs/lstm/vocabulary.json").read_text())`.
    """
    if expected.to_json() == found.to_json():
        return
    raise UserError(
        f"The vocabulary is not the one that the model was trained with: "
        f"{difference(expected, found)}. Use the vocabulary that was saved with the model, or "
        f"train a model with this one."
    )


def difference(expected: Vocabulary, found: Vocabulary) -> str:
    """Say in which token, or in what else, two vocabularies differ."""
    kinds = type(expected).__name__, type(found).__name__
    if kinds[0] != kinds[1]:
        return f"that one holds {kinds[0].lower()}, this one {kinds[1].lower()}"
    for i, (one, other) in enumerate(zip(expected.tokens, found.tokens, strict=False)):
        if one != other:
            return f"token {i} is {one!r} there and {other!r} here"
    if len(expected) != len(found):
        return f"it has {len(expected):,} tokens there and {len(found):,} here"
    return "the tokens are equal, but texts are cut into them in another way"


def check_ids(ids: Ids, size: int) -> np.ndarray:
    """The ids as an array of integers; raises `UserError` unless all are in 0..size-1."""
    found = np.asarray(ids)
    found = found if found.size else found.astype(np.int32)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UserError(
            f"Ids of tokens are integers on one axis; got {found.dtype} of shape {found.shape}."
        )
    wrong = found[(found < 0) | (found >= size)]
    if len(wrong):
        raise UserError(f"Ids must be in 0..{size - 1}, the vocabulary's; one is {wrong[0]}.")
    return found
