"""Vocabularies of characters and of bytes."""

import functools
import json
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.text.vocabulary import Ids, check_ids
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Characters:
    """Each of these characters (Unicode code points) is a token."""

    tokens: tuple[str, ...]

    def __len__(self) -> int:
        """How many characters there are."""
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        """The ids, int32; raises `UserError` for the first character that has none."""
        codes = _codes(text)
        # One entry more than the largest code, which stands for all codes beyond it.
        ids = self._table[np.minimum(codes, len(self._table) - 1)]
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            self._refuse(text, int(missing[0]))
        return ids

    def decode(self, ids: Ids) -> str:
        """The characters of these ids."""
        codes = _codes("".join(self.tokens))[check_ids(ids, len(self))]
        return codes.astype("<u4").tobytes().decode("utf-32-le")

    def to_json(self) -> str:
        """The characters in one string."""
        return json.dumps({"kind": "characters", "tokens": "".join(self.tokens)})

    @functools.cached_property
    def _table(self) -> np.ndarray:
        codes = _codes("".join(self.tokens))
        table = np.full(int(codes.max()) + 2, -1, np.int32)
        table[codes] = np.arange(len(self), dtype=np.int32)
        return table

    def _refuse(self, text: str, position: int) -> None:
        character, around = text[position], text[max(0, position - 20) : position + 20]
        raise UserError(
            f"The character {character!r} (U+{ord(character):04X}) at position {position:,}, in "
            f"{around!r}, is none of the vocabulary's {len(self)}. Make the vocabulary from all "
            f"texts, `characters(*corpus.values())`, or replace the character."
        )


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8: no text is out of this vocabulary."""

    def __len__(self) -> int:
        """256."""
        return 256

    @property
    def tokens(self) -> tuple[str, ...]:
        """The characters U+0000 to U+00FF, which name the bytes."""
        return tuple(map(chr, range(256)))

    def encode(self, text: str) -> np.ndarray:
        """The text's bytes in UTF-8, int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Ids) -> str:
        """The text; U+FFFD stands where the bytes are no UTF-8."""
        return check_ids(ids, 256).astype(np.uint8).tobytes().decode(errors="replace")

    def to_json(self) -> str:
        """Nothing but its kind."""
        return json.dumps({"kind": "bytes"})


def characters(*texts: str) -> Characters:
    """The vocabulary of the characters that occur in the texts, in the order of their codes."""
    found = set().union(*texts)
    if not found:
        raise UserError("A vocabulary of characters needs a text; the texts given are empty.")
    return Characters(tuple(sorted(found)))


def byte_vocabulary() -> Bytes:
    """The vocabulary of the 256 bytes."""
    return Bytes()


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
