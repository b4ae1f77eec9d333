"""Character and byte vocabularies."""

import functools
import json
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.text.vocabulary import Ids, check_ids
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class CharacterVocabulary:
    """A character vocabulary: each token is a Unicode code point."""

    tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        """Token ids, int32; raises `UserError` for a character that is not in the vocabulary."""
        codes = _codes(text)
        # The table has one more entry than the largest code, for all codes beyond it.
        ids = self._table[np.minimum(codes, len(self._table) - 1)]
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            self._raise_unknown(text, int(missing[0]))
        return ids

    def decode(self, ids: Ids) -> str:
        codes = _codes("".join(self.tokens))[check_ids(ids, len(self))]
        return codes.astype("<u4").tobytes().decode("utf-32-le")

    def to_json(self) -> str:
        return json.dumps({"kind": "characters", "tokens": "".join(self.tokens)})

    @functools.cached_property
    def _table(self) -> np.ndarray:
        codes = _codes("".join(self.tokens))
        table = np.full(int(codes.max()) + 2, -1, np.int32)
        table[codes] = np.arange(len(self), dtype=np.int32)
        return table

    def _raise_unknown(self, text: str, position: int) -> None:
        character, around = text[position], text[max(0, position - 20) : position + 20]
        raise UserError(
            f"The character {character!r} (U+{ord(character):04X}) at position {position:,}, in "
            f"{around!r}, is not in the vocabulary of {len(self)}. Make the vocabulary from all "
            f"texts, `character_vocabulary(*corpus.values())`, or replace the character."
        )


@dataclass(frozen=True)
class ByteVocabulary:
    """A byte vocabulary: the 256 bytes of UTF-8, which encode every text."""

    def __len__(self) -> int:
        return 256

    @property
    def tokens(self) -> tuple[str, ...]:
        """The characters U+0000 to U+00FF, one for each byte."""
        return tuple(map(chr, range(256)))

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Ids) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return check_ids(ids, 256).astype(np.uint8).tobytes().decode(errors="replace")

    def to_json(self) -> str:
        return json.dumps({"kind": "bytes"})


def character_vocabulary(*texts: str) -> CharacterVocabulary:
    """The vocabulary of all characters in the texts, in the order of their code points."""
    characters = set().union(*texts)
    if not characters:
        raise UserError("A character vocabulary needs a text; the given ones are empty.")
    return CharacterVocabulary(tuple(sorted(characters)))


def byte_vocabulary() -> ByteVocabulary:
    """The byte vocabulary, of 256 tokens."""
    return ByteVocabulary()


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
