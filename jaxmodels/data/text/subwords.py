"""Vocabularies of sub-words, by Hugging Face's tokenizers."""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.data.text.vocabulary import SPECIAL, Ids, check_ids
from jaxmodels.errors import UserError

SMALLEST = len(SPECIAL) + 256


@dataclass(frozen=True)
class Subwords:
    """Sub-words by the rules in `rules`, a JSON text of the library tokenizers.

    Whatever ids the rules give them, `SPECIAL` come first here, then all others in the rules'
    order. What else the rules would do to an encoded text, such as framing, padding or cutting
    it, is left out.
    """

    rules: str

    def __post_init__(self) -> None:
        """Refuse rules that the library cannot read, or that leave out ids."""
        if not np.array_equal(np.sort(self._theirs), np.arange(len(self))):
            raise UserError("The rules of these sub-words leave out ids: 0, 1, ... are expected.")

    def __len__(self) -> int:
        """How many sub-words there are, special ones included."""
        return len(self.tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The sub-words by id, spelt as in the rules: bytes as GPT-2 does, by `subwords`."""
        return self._tokens

    def encode(self, text: str) -> np.ndarray:
        """The ids, int32."""
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._ours[np.array(found, np.int32)]

    def decode(self, ids: Ids) -> str:
        """The text of these ids, special tokens included."""
        numbers = self._theirs[check_ids(ids, len(self))]
        return self._tokenizer.decode(numbers.tolist(), skip_special_tokens=False)

    def to_json(self) -> str:
        """The rules."""
        return json.dumps({"kind": "subwords", "rules": json.loads(self.rules)}, ensure_ascii=False)

    @functools.cached_property
    def _tokens(self) -> tuple[str, ...]:
        ids = self._ids
        return *SPECIAL, *(word for word in sorted(ids, key=ids.__getitem__) if word not in SPECIAL)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @functools.cached_property
    def _theirs(self) -> np.ndarray:
        """The rules' ids by ours."""
        return np.array([self._ids[word] for word in self.tokens], np.int32)

    @functools.cached_property
    def _ours(self) -> np.ndarray:
        """Our ids by the rules'."""
        return np.argsort(self._theirs).astype(np.int32)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.rules)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"The rules of these sub-words cannot be read: {error}.") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens(list(SPECIAL))
        # A text in which "<eos>" is written does not end there.
        tokenizer.encode_special_tokens = True
        return tokenizer


def subwords(texts: str | Iterable[str], size: int) -> Subwords:
    """A vocabulary of at most `size` sub-words, learnt from the texts: byte-pair encoding.

    Sennrich et al., 2016, "Neural machine translation of rare words with subword units", on bytes
    as in Radford et al., 2019, "Language models are unsupervised multitask learners", section 2.2.
    It is smaller than `size` where the texts offer no more pairs. No text is out of it, and every
    text comes back as it was.
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


def subwords_from_file(path: str | Path) -> Subwords:
    """The vocabulary in a `tokenizer.json` of Hugging Face's tokenizers, whoever made it.

    Raises `UserError` where there is no such file, or one that the library cannot read.
    """
    try:
        rules = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no tokenizer.json ({error}). Expected is the file that `Tokenizer.save` of "
            "Hugging Face's tokenizers writes."
        ) from error
    return Subwords(canonical(rules))


def canonical(rules: Any) -> str:
    """The rules as the one JSON text by which vocabularies are compared."""
    return json.dumps(rules, ensure_ascii=False)
