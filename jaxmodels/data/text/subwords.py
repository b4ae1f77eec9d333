"""Sub-word vocabularies (byte-pair encoding, BPE) with Hugging Face's library tokenizers."""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.data.text.vocabulary import SPECIAL_TOKENS, Ids, check_ids
from jaxmodels.errors import UserError

MIN_SIZE = len(SPECIAL_TOKENS) + 256


@dataclass(frozen=True)
class SubwordVocabulary:
    """Sub-words of a Hugging Face tokenizer, whose `tokenizer.json` text is `rules`.

    `SPECIAL_TOKENS` get ids 0 to 3, then come all other tokens in the tokenizer's order. Its
    post-processing, padding and truncation are not applied.
    """

    rules: str

    def __post_init__(self) -> None:
        if not np.array_equal(np.sort(self._theirs), np.arange(len(self))):
            raise UserError("The ids of this tokenizer have gaps; expected 0, 1, 2, ...")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The sub-words by id, as the tokenizer spells them (bytes as in GPT-2)."""
        return self._tokens

    def encode(self, text: str) -> np.ndarray:
        try:
            found = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"The tokenizer cannot encode {text[:40]!r}: it has no token for some character, "
                f"and no unknown token ({error})."
            ) from error
        return self._ours[np.array(found, np.int32)]

    def decode(self, ids: Ids) -> str:
        numbers = self._theirs[check_ids(ids, len(self))]
        return self._tokenizer.decode(numbers.tolist(), skip_special_tokens=False)

    def to_json(self) -> str:
        return json.dumps({"kind": "subwords", "rules": json.loads(self.rules)}, ensure_ascii=False)

    @functools.cached_property
    def _tokens(self) -> tuple[str, ...]:
        ids = self._ids
        return *SPECIAL_TOKENS, *(
            word for word in sorted(ids, key=ids.__getitem__) if word not in SPECIAL_TOKENS
        )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @functools.cached_property
    def _theirs(self) -> np.ndarray:
        """The tokenizer's id of each of our ids."""
        return np.array([self._ids[word] for word in self.tokens], np.int32)

    @functools.cached_property
    def _ours(self) -> np.ndarray:
        """Our id of each of the tokenizer's ids."""
        return np.argsort(self._theirs).astype(np.int32)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.rules)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"The tokenizer cannot be read: {error}.") from error
        if getattr(tokenizer.model, "unk_token", "") is None:
            # Byte-pair encoding leaves out what it does not know, unless it has such a token: one
            # that the vocabulary lacks makes it an error.
            tokenizer.model.unk_token = "<unknown>"
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        # A text in which "<eos>" is written does not end there.
        tokenizer.encode_special_tokens = True
        return tokenizer


def subword_vocabulary(texts: str | Iterable[str], size: int) -> SubwordVocabulary:
    """Learn a byte-level BPE vocabulary of at most `size` sub-words from texts.

    Sennrich et al., 2016, "Neural machine translation of rare words with subword units", on bytes
    as in Radford et al., 2019, "Language models are unsupervised multitask learners", section 2.2.
    It is smaller than `size` if the texts have no more pairs. Every text can be encoded, and is
    decoded unchanged.
    """
    # Imported here: most programs do not need it.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if size < MIN_SIZE:
        raise UserError(
            f"A sub-word vocabulary has at least {MIN_SIZE} tokens: 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens; size is {size}."
        )
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not any(texts):
        raise UserError("A sub-word vocabulary is learnt from texts; the given ones are empty.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return SubwordVocabulary(canonical_json(json.loads(tokenizer.to_str())))


def subword_vocabulary_from_file(path: str | Path) -> SubwordVocabulary:
    """The vocabulary of a Hugging Face `tokenizer.json`.

    Raises `UserError` if the file is missing or the library cannot read it.
    """
    try:
        rules = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a tokenizer.json ({error}); expected a file that `Tokenizer.save` of "
            "Hugging Face's tokenizers writes."
        ) from error
    return SubwordVocabulary(canonical_json(rules))


def canonical_json(rules: Any) -> str:
    """The rules as canonical JSON text, by which vocabularies are compared."""
    return json.dumps(rules, ensure_ascii=False)
