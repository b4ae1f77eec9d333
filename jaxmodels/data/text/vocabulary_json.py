"""Vocabularies from the JSON texts that they write."""

import json
from collections.abc import Mapping
from typing import Any

from jaxmodels.data.text.characters import Bytes, Characters
from jaxmodels.data.text.subwords import Subwords, canonical
from jaxmodels.data.text.tokenize import tokenize_words
from jaxmodels.data.text.vocabulary import Tokenize, Vocabulary
from jaxmodels.data.text.words import Words
from jaxmodels.errors import UserError

_OWN = {function.__qualname__: function for function in (str.split, tokenize_words)}


def vocabulary_from_json(text: str, tokenize: Tokenize | None = None) -> Vocabulary:
    """The vocabulary whose `to_json` made this text.

    `tokenize` is needed only for words that were cut by a function of one's own.
    Raises `UserError` where the text is no vocabulary.
    """
    try:
        return _made(json.loads(text), tokenize)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"This text is no saved vocabulary ({type(error).__name__}: {error}): "
            f"{text[:60]!r}... Expected is what `to_json` of a vocabulary returned."
        ) from error


def _made(parts: Mapping[str, Any], tokenize: Tokenize | None) -> Vocabulary:
    kind = parts["kind"]
    if kind == "characters":
        return Characters(tuple(parts["tokens"]))
    if kind == "bytes":
        return Bytes()
    if kind == "words":
        return Words(tuple(parts["tokens"]), tokenize or _tokenizer(parts["tokenize"]))
    if kind == "subwords":
        return Subwords(canonical(parts["rules"]))
    raise KeyError(kind)


def _tokenizer(name: str) -> Tokenize:
    if name not in _OWN:
        raise UserError(
            f"This vocabulary's texts were cut into words by {name!r}, a function which is not of "
            f"jaxmodels: give it, `vocabulary_from_json(text, tokenize={name})`."
        )
    return _OWN[name]
