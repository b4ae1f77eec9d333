"""Autoregressive sampling, with a cache or recurrent state."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Bool, Int

from jaxmodels.errors import UserError
from jaxmodels.generate.incremental import (
    IncrementalDecoder,
    Tokens,
    causal,
    check_not_nan,
    check_prompt,
)
from jaxmodels.generate.samplers import Sampler, greedy
from jaxmodels.typing import Array, Key, Model


def sample(
    model: Model,
    variables: Any,
    prompt: Int[Tokens, "B T"],
    length: int,
    key: Key,
    sampler: Sampler = greedy,
    stop: int | None = None,
    pad: int = 0,
    lengths: Int[Tokens, " B"] | None = None,
) -> Int[Array, "B length"]:
    """Continue each prompt by `length` tokens of a language model; the prompt is not repeated.

    The prompt is read in one call, then each token in one. A row that sampled `stop` keeps it and
    is filled with `pad`; when all rows have ended, the loop ends. Prompts of unequal `lengths` are
    at the beginnings of their rows; as many tokens as the shortest has are read in one call.
    Compiled once for a shape of the prompt, its shortest row, a length and a kind of sampler, for
    all keys and temperatures.

    Raises `UserError` for an empty prompt, tokens that the model does not know, a length below 1,
    where prompt and length together exceed the model's context, and where logits are NaN.
    """
    return decode(causal(model), variables, prompt, length, key, sampler, stop, pad, lengths)


def decode(
    decoder: IncrementalDecoder,
    variables: Any,
    prompt: Int[Tokens, "B T"],
    length: int,
    key: Key,
    sampler: Sampler = greedy,
    stop: int | None = None,
    pad: int = 0,
    lengths: Int[Tokens, " B"] | None = None,
) -> Int[Array, "B length"]:
    """`sample` with any decoder, such as `conditional(model, memory)`.

    The key of the n-th call is `fold_in(key, n)`: a longer sample begins with the shorter one.
    """
    check_prompt(decoder, prompt, length)
    B, T = prompt.shape
    if B == 0:
        return jnp.zeros((0, length), jnp.int32)
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    if lengths.shape != (B,) or lengths.min() < 1 or lengths.max() > T:
        raise UserError(
            f"The prompts' lengths are {B} numbers from 1 to {T}, one for each row; got {lengths}."
        )
    traced = sampler if isinstance(sampler, Partial) else Partial(sampler)
    stop = -1 if stop is None else stop  # no token has this id
    shortest = int(lengths.min())
    arguments = prompt, lengths, shortest, length, key, traced, stop, pad
    tokens, is_nan = _decode(decoder, variables, *arguments)
    check_not_nan(is_nan)
    return tokens


class _State(NamedTuple):
    """`n` is the index in its row of the last `token`, which is still to be read."""

    n: Array
    carry: Any
    token: Int[Array, " B"]
    ended: Bool[Array, " B"]
    tokens: Int[Array, "B length"]
    is_nan: Array


@partial(jax.jit, static_argnames=("shortest", "length"))
def _decode(
    decoder: IncrementalDecoder,
    variables: Any,
    prompt: Array,
    lengths: Array,
    shortest: int,
    length: int,
    key: Key,
    sampler: Any,
    stop: Array,
    pad: Array,
) -> tuple[Array, Array]:
    B, T = prompt.shape
    prompt = jnp.asarray(prompt, jnp.int32)

    def going(state: _State) -> Array:
        return (state.n < lengths.max() + length - 1) & ~state.ended.all() & ~state.is_nan

    def follow(n: Array, logits: Array, carry: Any, ended: Array, tokens: Array) -> _State:
        """The token at index n: the prompt's, or one that is sampled and kept."""
        sampled = sampler(jax.random.fold_in(key, n - shortest), logits).astype(jnp.int32)
        given = n < lengths
        token = jnp.where(given, prompt[:, jnp.minimum(n, T - 1)], jnp.where(ended, pad, sampled))
        at = jnp.where(given, length, n - lengths)  # beyond the end, nothing is written
        tokens = tokens.at[jnp.arange(B), at].set(token, mode="drop")
        ended = ended | (~given & (token == stop))
        return _State(n, carry, token, ended, tokens, jnp.isnan(logits).any())

    def advance(state: _State) -> _State:
        n, carry, token, ended, tokens, _ = state
        logits, carry = decoder.step(variables, carry, token[:, None])
        return follow(n + 1, logits, carry, ended, tokens)

    logits, carry = decoder.step(variables, decoder.start(B, T + length), prompt[:, :shortest])
    nothing = jnp.zeros(B, bool), jnp.full((B, length), pad, jnp.int32)
    first = follow(jnp.int32(shortest), logits, carry, *nothing)
    last = jax.lax.while_loop(going, advance, first)
    return last.tokens, last.is_nan
