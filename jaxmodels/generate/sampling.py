"""One token after another."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Bool, Int

from jaxmodels.generate.choosers import Chooser, greedy
from jaxmodels.generate.decoder import Decoder, Tokens, causal, check_prompt
from jaxmodels.typing import Array, Key, Model


def sample(
    model: Model,
    variables: Any,
    prompt: Int[Tokens, "B T"],
    length: int,
    key: Key,
    choose: Chooser = greedy,
    stop: int | None = None,
    pad: int = 0,
) -> Int[Array, "B length"]:
    """Go on with each prompt by `length` tokens of a language model; the prompt is not repeated.

    The prompt is read in one call, then each token in one. A row that chose `stop` keeps it and
    is filled with `pad`; when all rows have ended, the loop ends. Compiled once for a shape of
    the prompt, a length and a kind of chooser, for all keys and temperatures.

    Raises `UserError` for an empty prompt, a length below 1, and where both together exceed the
    model's context.
    """
    return decode(causal(model), variables, prompt, length, key, choose, stop, pad)


def decode(
    decoder: Decoder,
    variables: Any,
    prompt: Int[Tokens, "B T"],
    length: int,
    key: Key,
    choose: Chooser = greedy,
    stop: int | None = None,
    pad: int = 0,
) -> Int[Array, "B length"]:
    """As `sample`, with any decoder.

    The key of token n is `fold_in(key, n)`: a longer sample begins with the shorter one.
    """
    check_prompt(decoder, prompt, length)
    chooser = choose if isinstance(choose, Partial) else Partial(choose)
    stop = -1 if stop is None else stop  # no token has this id
    return _decode(decoder, variables, prompt, length, key, chooser, stop, pad)


class _State(NamedTuple):
    n: Array
    carry: Any
    token: Int[Array, " B"]
    ended: Bool[Array, " B"]
    tokens: Int[Array, "B length"]


@partial(jax.jit, static_argnames="length")
def _decode(
    decoder: Decoder,
    variables: Any,
    prompt: Array,
    length: int,
    key: Key,
    choose: Any,
    stop: Array,
    pad: Array,
) -> Array:
    def chosen(n: Any, logits: Array) -> Array:
        return choose(jax.random.fold_in(key, n), logits).astype(jnp.int32)

    def going(state: _State) -> Array:
        return (state.n < length) & ~state.ended.all()

    def advance(state: _State) -> _State:
        n, carry, token, ended, tokens = state
        logits, carry = decoder.step(variables, carry, token[:, None])
        token = jnp.where(ended, pad, chosen(n, logits))
        return _State(n + 1, carry, token, ended | (token == stop), tokens.at[:, n].set(token))

    B, T = prompt.shape
    carry = decoder.start(B, T + length)
    logits, carry = decoder.step(variables, carry, prompt)
    first = chosen(0, logits)
    tokens = jnp.full((B, length), pad, jnp.int32).at[:, 0].set(first)
    state = _State(jnp.int32(1), carry, first, first == stop, tokens)
    return jax.lax.while_loop(going, advance, state).tokens
