"""Load a vocabulary from the JSON text that its `to_json` wrote."""

import json
from collections.abc import Mapping
from typing import Any

from jaxmodels.data.text.characters import ByteVocabulary, CharacterVocabulary
from jaxmodels.data.text.subwords import SubwordVocabulary, canonical_json
from jaxmodels.data.text.tokenize import tokenize_words
from jaxmodels.data.text.vocabulary import Tokenize, Vocabulary
from jaxmodels.data.text.words import WordVocabulary
from jaxmodels.errors import UserError

_TOKENIZERS = {function.__qualname__: function for function in (str.split, tokenize_words)}


def vocabulary_from_json(text: str, tokenize: Tokenize | None = None) -> Vocabulary:
    """The vocabulary whose `to_json` wrote this text.

    `tokenize` is needed only for a word vocabulary with a tokenizer that is not of jaxmodels.
    Raises `UserError` if the text is not a vocabulary.
    """
    try:
        return _from_parts(json.loads(text), tokenize)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"This text is not a saved vocabulary ({type(error).__name__}: {error}): "
            f"{text[:60]!r}... Expected the result of a vocabulary's `to_json`."
        ) from error


def _from_parts(parts: Mapping[str, Any], tokenize: Tokenize | None) -> Vocabulary:
    kind = parts["kind"]
    if kind == "characters":
        return CharacterVocabulary(tuple(parts["tokens"]))
    if kind == "bytes":
        return ByteVocabulary()
    if kind == "words":
        return WordVocabulary(tuple(parts["tokens"]), tokenize or _tokenizer(parts["tokenize"]))
    if kind == "subwords":
        return SubwordVocabulary(canonical_json(parts["rules"]))
    raise KeyError(kind)


def _tokenizer(name: str) -> Tokenize:
    if name not in _TOKENIZERS:
        raise UserError(
            f"This vocabulary's tokenizer is {name!r}, which is not of jaxmodels; pass it: "
            f"`vocabulary_from_json(text, tokenize={name})`."
        )
    return _TOKENIZERS[name]
