"""From a sentence to a sentence."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxmodels.generate.beam import beam_search
from jaxmodels.generate.decoder import Tokens, conditional
from jaxmodels.generate.sampling import decode
from jaxmodels.tokens import BOS, EOS, PAD, until
from jaxmodels.typing import Array, Model, UserError


def translate(
    model: Model,
    variables: Any,
    source: Int[Tokens, "B S"],
    length: int,
    beam_size: int = 1,
    alpha: float = 0.6,
) -> Int[Array, "B length"]:
    """Translate by an encoder-decoder: ids up to `<eos>` (3), then `<pad>` (0).

    One beam is greedy search; more are `beam_search` with its length penalty `alpha`.

    Raises `UserError` for a beam size or a length below 1, and for alpha below 0.
    """
    if beam_size < 1:
        raise UserError(f"The beam size is at least 1, which is greedy search; got {beam_size}.")
    decoder = conditional(model, _encode(model, variables, source))
    start = jnp.full((source.shape[0], 1), BOS, jnp.int32)
    if beam_size == 1:
        return decode(decoder, variables, start, length, jax.random.key(0), stop=EOS, pad=PAD)
    tokens, _ = beam_search(decoder, variables, start, length, beam_size, alpha, EOS, PAD)
    return tokens


def translate_split(
    model: Model,
    variables: Any,
    split: Any,
    length: int,
    beam_size: int = 1,
    alpha: float = 0.6,
    batch_size: int = 100,
) -> list[list[int]]:
    """Translate the "source" of every example of a split, in order: ids without `<eos>`."""
    found: list[list[int]] = []
    for batch in split.padded(batch_size):
        source = split.preprocess(batch)["source"]
        tokens = translate(model, variables, source, length, beam_size, alpha)
        found += until(np.asarray(tokens)[batch["mask"]])
    return found


@partial(jax.jit, static_argnames="model")
def _encode(model: Model, variables: Any, source: Array) -> Any:
    return model.apply(variables, source, method="encode")
