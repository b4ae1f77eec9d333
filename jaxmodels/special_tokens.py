"""The ids that all vocabularies of words and sub-words begin with."""

import numpy as np
from jaxtyping import Int

PAD, UNK, BOS, EOS = range(4)
"""No token, an unknown one, the beginning and the end of a sentence."""


def truncate_at_eos(tokens: Int[np.ndarray, "B T"], stop: int = EOS) -> list[list[int]]:
    """The ids of each row before `stop`; the whole row where it has none."""
    ends = np.where((tokens == stop).any(1), (tokens == stop).argmax(1), tokens.shape[1])
    return [row[:end].tolist() for row, end in zip(tokens, ends, strict=True)]
