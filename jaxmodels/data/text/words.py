"""Word vocabularies, with a minimum count and `<unk>`."""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.text.vocabulary import SPECIAL_TOKENS, UNKNOWN, Ids, Tokenize, check_ids
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class WordVocabulary:
    """A word vocabulary; `tokenize` splits a text into words.

    If `<unk>` is a token, it replaces words that are not in the vocabulary.
    """

    tokens: tuple[str, ...]
    tokenize: Tokenize = str.split

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str | Sequence[str]) -> np.ndarray:
        """Token ids of a text, or of a list of words, int32.

        Without `<unk>` it raises `UserError` for a word that is not in the vocabulary.
        """
        words = self.tokenize(text) if isinstance(text, str) else text
        unknown = self._ids.get(UNKNOWN, -1)
        ids = np.fromiter((self._ids.get(word, unknown) for word in words), np.int32, len(words))
        if unknown < 0 and len(missing := np.flatnonzero(ids < 0)):
            self._raise_unknown(words, int(missing[0]))
        return ids

    def decode(self, ids: Ids) -> str:
        """The words, joined by spaces."""
        return " ".join(self.tokens[i] for i in check_ids(ids, len(self)).tolist())

    def to_json(self) -> str:
        """The words and the tokenizer's name, as JSON."""
        parts = {"kind": "words", "tokenize": self.tokenize.__qualname__, "tokens": self.tokens}
        return json.dumps(parts, ensure_ascii=False)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.tokens)}

    def _raise_unknown(self, words: Sequence[str], position: int) -> None:
        raise UserError(
            f"The word {words[position]!r}, number {position:,} (from 0), is not in the "
            f"vocabulary of {len(self):,}, which has no {UNKNOWN}. Make the vocabulary from this "
            f"text too, or with {UNKNOWN!r} in `special`."
        )


def word_vocabulary(
    texts: str | Iterable[str],
    min_count: int = 1,
    tokenize: Tokenize = str.split,
    special: Sequence[str] = SPECIAL_TOKENS,
) -> WordVocabulary:
    """The vocabulary of the words that occur at least `min_count` times in the texts.

    Special tokens come first, then words by decreasing count, equal ones in alphabetical order.
    """
    texts = [texts] if isinstance(texts, str) else texts
    counts = Counter[str]()
    for text in texts:
        counts.update(tokenize(text))
    kept = [word for word, count in counts.items() if count >= min_count and word not in special]
    if not kept:
        raise UserError(
            f"A word vocabulary is made from texts; the given ones have {len(counts):,} different "
            f"words, none of which occurs {min_count:,} times."
        )
    kept.sort(key=lambda word: (-counts[word], word))
    return WordVocabulary((*special, *kept), tokenize)
