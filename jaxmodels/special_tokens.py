"""Ids of the special tokens: padding, unknown, beginning and end of a sentence."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

PAD, UNK, BOS, EOS = range(4)
"""`<pad>`, `<unk>`, `<bos>`, `<eos>`: the first ids of word and sub-word vocabularies."""


def truncate_at_eos(tokens: Int[np.ndarray, "B T"], stop: int = EOS) -> list[list[int]]:
    """The token ids of each row before the first `stop`; the whole row if it has none."""
    ends = np.where((tokens == stop).any(1), (tokens == stop).argmax(1), tokens.shape[1])
    return [row[:end].tolist() for row, end in zip(tokens, ends, strict=True)]


def split_target(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of translation with what teacher forcing needs, from `target` (B, T + 1).

    Adds `decoder_tokens` (B, T), the target without its last token; `targets` (B, T), without its
    first; and `valid` (B, T), False where these are padding.
    """
    target = batch["target"]
    decoder_tokens, targets = target[:, :-1], target[:, 1:]
    return {**batch, "decoder_tokens": decoder_tokens, "targets": targets, "valid": targets != PAD}
