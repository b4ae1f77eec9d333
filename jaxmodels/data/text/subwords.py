"""Vocabularies of sub-words, by Hugging Face's tokenizers."""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmodels.data.text.vocabulary import SPECIAL, Ids, check_ids
from jaxmodels.typing import UserError

SMALLEST = len(SPECIAL) + 256


@dataclass(frozen=True)
class Subwords:
    """Byte pairs, merged by the rules in `rules`, a JSON text of the library tokenizers.

    No text is out of this vocabulary, and every text comes back as it was.
    """

    rules: str

    def __post_init__(self) -> None:
        """Refuse rules that the library cannot read."""
        len(self)

    def __len__(self) -> int:
        """How many sub-words there are, special ones included."""
        return len(self.tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The sub-words by id, in GPT-2's spelling of bytes."""
        return self._tokens

    def encode(self, text: str) -> np.ndarray:
        """The ids, int32."""
        return np.array(self._tokenizer.encode(text).ids, np.int32)

    def decode(self, ids: Ids) -> str:
        """The text of these ids, special tokens included."""
        numbers = check_ids(ids, len(self)).tolist()
        return self._tokenizer.decode(numbers, skip_special_tokens=False)

    def to_json(self) -> str:
        """The rules."""
        return json.dumps({"kind": "subwords", "rules": json.loads(self.rules)}, ensure_ascii=False)

    @functools.cached_property
    def _tokens(self) -> tuple[str, ...]:
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        return tuple(sorted(ids, key=ids.__getitem__))

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.rules)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"The rules of these sub-words cannot be read: {error}.") from error
        # A text in which "<eos>" is written does not end there.
        tokenizer.encode_special_tokens = True
        return tokenizer


def subwords(texts: str | Iterable[str], size: int) -> Subwords:
    """A vocabulary of at most `size` sub-words, learnt from the texts: byte-pair encoding.

    Sennrich et al., 2016, "Neural machine translation of rare words with subword units", on bytes
    as in Radford et al., 2019, "Language models are unsupervised multitask learners", section 2.2.
    It is smaller than `size` where the texts offer no more pairs.
    """
    # Imported here: most programs need it not.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if size < SMALLEST:
        raise UserError(
            f"A vocabulary of sub-words holds at least {SMALLEST}: the 256 bytes and "
            f"{len(SPECIAL)} special tokens; size is {size}."
        )
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not any(texts):
        raise UserError("A vocabulary of sub-words needs texts; those given are empty.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Subwords(canonical(json.loads(tokenizer.to_str())))


def canonical(rules: Any) -> str:
    """The rules as the one JSON text by which vocabularies are compared."""
    return json.dumps(rules, ensure_ascii=False)
