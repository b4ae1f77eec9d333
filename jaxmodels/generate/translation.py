"""Translation by greedy or beam search."""

import dataclasses
from collections.abc import Callable
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


def translator(
    model: Model, length: int, beam_size: int = 1, alpha: float = 0.6
) -> Callable[[Any, Int[Tokens, "B S"]], Int[Array, "B length"]]:
    """Make `(variables, source (B, S)) -> ids (B, length)` of an encoder-decoder.

    A row has ids up to `<eos>` (3), then `<pad>` (0). One beam is greedy search; more are
    `beam_search` with its length penalty `alpha`. Neither `<pad>` nor `<bos>` is ever chosen: no
    model learns to predict them.

    Raises `UserError`, before anything is translated, for a length or a beam size below 1, a length
    beyond the model's context, and alpha below 0; and for source tokens that the model does not
    know.
    """
    check_prompt(causal(model), np.array([[BOS]]), length)
    check_beams(beam_size, alpha)
    vocabulary = getattr(model, "source_vocab", None)
    if vocabulary is None:  # both languages share one
        vocabulary = getattr(model, "vocab_size", None)

    def translated(variables: Any, source: Int[Tokens, "B S"]) -> Int[Array, "B length"]:
        check_token_ids(source, vocabulary)
        decoder = _Sentences(model, "decode", (_encode(model, variables, source),))
        start = jnp.full((source.shape[0], 1), BOS, jnp.int32)
        if beam_size == 1:
            return decode(decoder, variables, start, length, jax.random.key(0), stop=EOS, pad=PAD)
        return beam_search(decoder, variables, start, length, beam_size, alpha, EOS, PAD)[0]

    return translated


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
