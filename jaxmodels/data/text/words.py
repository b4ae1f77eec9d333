"""Vocabularies of words."""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.text.vocabulary import SPECIAL, UNKNOWN, Ids, Tokenize, check_ids
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Words:
    """Each of these words is a token; `tokenize` cuts a text into words.

    Where `<unk>` is one of them, it stands for all words that are not.
    """

    tokens: tuple[str, ...]
    tokenize: Tokenize = str.split

    def __len__(self) -> int:
        """How many words there are, special ones included."""
        return len(self.tokens)

    def encode(self, text: str | Sequence[str]) -> np.ndarray:
        """The ids of a text, or of a list of words, int32.

        Raises `UserError` for the first word that has none, where there is no `<unk>`.
        """
        words = self.tokenize(text) if isinstance(text, str) else text
        unknown = self._ids.get(UNKNOWN, -1)
        ids = np.fromiter((self._ids.get(word, unknown) for word in words), np.int32, len(words))
        if unknown < 0 and len(missing := np.flatnonzero(ids < 0)):
            self._refuse(words, int(missing[0]))
        return ids

    def decode(self, ids: Ids) -> str:
        """The words of these ids with spaces between them."""
        return " ".join(self.tokens[i] for i in check_ids(ids, len(self)).tolist())

    def to_json(self) -> str:
        """The words, and the name of the tokenizer."""
        parts = {"kind": "words", "tokenize": self.tokenize.__qualname__, "tokens": self.tokens}
        return json.dumps(parts, ensure_ascii=False)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.tokens)}

    def _refuse(self, words: Sequence[str], position: int) -> None:
        raise UserError(
            f"The word {words[position]!r}, number {position:,} of the text (from 0), is none of "
            f"the vocabulary's {len(self):,}, and there is no {UNKNOWN}. Make the vocabulary from "
            f"this text too, or with `special` holding {UNKNOWN!r}."
        )


def words(
    texts: str | Iterable[str],
    min_count: int = 1,
    tokenize: Tokenize = str.split,
    special: Sequence[str] = SPECIAL,
) -> Words:
    """The vocabulary of the words that come at least `min_count` times in a text or several.

    First the special tokens, then words by how often they come, then in alphabetical order.
    """
    texts = [texts] if isinstance(texts, str) else texts
    counts = Counter[str]()
    for text in texts:
        counts.update(tokenize(text))
    found = [word for word, count in counts.items() if count >= min_count and word not in special]
    if not found:
        raise UserError(
            f"A vocabulary of words needs texts; in those given {len(counts):,} words occur, none "
            f"of them {min_count:,} times."
        )
    found.sort(key=lambda word: (-counts[word], word))
    return Words((*special, *found), tokenize)
