"""Translation by greedy or beam search."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxmodels.generate.beam import beam_search, check_beams
from jaxmodels.generate.incremental import (
    IncrementalDecoder,
    Tokens,
    causal,
    check_prompt,
    check_token_ids,
)
from jaxmodels.generate.sampling import decode
from jaxmodels.special_tokens import BOS, EOS, PAD
from jaxmodels.typing import Array, Model


@dataclasses.dataclass(frozen=True)
class Translator:
    """`(variables, source (B, S)) -> ids (B, length)`; see `translator`."""

    model: Model
    length: int
    beam_size: int
    alpha: float

    def __post_init__(self) -> None:
        check_prompt(causal(self.model), np.array([[BOS]]), self.length)
        check_beams(self.beam_size, self.alpha)

    def __call__(self, variables: Any, source: Int[Tokens, "B S"]) -> Int[Array, "B {self.length}"]:
        vocabulary = getattr(self.model, "source_vocab", None)
        if vocabulary is None:  # both languages share one
            vocabulary = getattr(self.model, "vocab_size", None)
        check_token_ids(source, vocabulary)
        decoder = _Sentences(self.model, "decode", (_encode(self.model, variables, source),))
        start = jnp.full((source.shape[0], 1), BOS, jnp.int32)
        arguments = decoder, variables, start, self.length
        if self.beam_size == 1:
            return decode(*arguments, jax.random.key(0), stop=EOS, pad=PAD)
        return beam_search(*arguments, self.beam_size, self.alpha, EOS, PAD)[0]


def translator(model: Model, length: int, beam_size: int = 1, alpha: float = 0.6) -> Translator:
    """Make `(variables, source (B, S)) -> ids (B, length)` of an encoder-decoder.

    A row has ids up to `<eos>` (3), then `<pad>` (0). One beam is greedy search; more are
    `beam_search` with its length penalty `alpha`. Neither `<pad>` nor `<bos>` is ever chosen: no
    model learns to predict them.

    Raises `UserError`, before anything is translated, for a length or a beam size below 1, a length
    beyond the model's context, and alpha below 0; and for source tokens that the model does not
    know.
    """
    return Translator(model, length, beam_size, alpha)


def translate(
    model: Model,
    variables: Any,
    source: Int[Tokens, "B S"],
    length: int,
    beam_size: int = 1,
    alpha: float = 0.6,
) -> Int[Array, "B length"]:
    """Translate sentences (B, S); see `translator`."""
    return translator(model, length, beam_size, alpha)(variables, source)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Sentences(IncrementalDecoder):
    """A decoder of words and `<eos>`: `<pad>` and `<bos>` are impossible."""

    def step(
        self, variables: Any, carry: Any, tokens: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B V"], Any]:
        logits, carry = super().step(variables, carry, tokens)
        return logits.at[:, jnp.array([PAD, BOS])].set(-jnp.inf), carry


@partial(jax.jit, static_argnames="model")
def _encode(model: Model, variables: Any, source: Array) -> Any:
    return model.apply(variables, source, method="encode")
