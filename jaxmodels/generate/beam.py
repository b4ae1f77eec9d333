"""Beam search with length normalisation."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxmodels.errors import UserError
from jaxmodels.generate.incremental import (
    IncrementalDecoder,
    Tokens,
    check_not_nan,
    check_prompt,
)
from jaxmodels.typing import Array


def beam_search(
    decoder: IncrementalDecoder,
    variables: Any,
    prompt: Int[Tokens, "B T"],
    length: int,
    beams: int,
    alpha: float = 0.6,
    stop: int | None = None,
    pad: int = 0,
) -> tuple[Int[Array, "B length"], Float[Array, " B"]]:
    """Beam search: each row's best continuation of at most `length` tokens, and its score in nats.

    The score is log p(continuation) / ((5 + its tokens) / 6) ** alpha, `stop` included: Wu et al.,
    2016, "Google's neural machine translation system", equation 14, without the coverage penalty.
    A continuation has ended when `stop` is among the `beams` best of a step. The search
    continues until no open one can still score higher. An open one is returned only where none has
    ended; after `stop` comes `pad`. One beam and alpha = 0 make greedy search; no fewer beams than
    there are sequences make exhaustive search.

    Raises `UserError` for fewer than one beam, alpha below 0, and as `decode` does.
    """
    check_prompt(decoder, prompt, length)
    check_beams(beams, alpha)
    stop = -1 if stop is None else stop  # no token has this id
    arguments = prompt, length, beams, float(alpha), stop, pad
    tokens, scores, is_nan = _beam_search(decoder, variables, *arguments)
    check_not_nan(is_nan)
    return tokens, scores


def check_beams(beams: int, alpha: float) -> None:
    """Raise `UserError` for fewer than one beam, and for alpha below 0."""
    if beams < 1:
        raise UserError(f"Beam search takes at least one beam; got {beams}.")
    if not 0 <= alpha < jnp.inf:
        raise UserError(f"The length penalty alpha is 0 (none) or above; got {alpha}.")


class _Search(NamedTuple):
    """Open continuations, best first, and the best that has ended (score -inf: none)."""

    n: Array
    log_p: Float[Array, "B beams"]
    tokens: Int[Array, "B beams length"]
    ended: Int[Array, "B length"]
    score: Float[Array, " B"]
    is_nan: Array


@partial(jax.jit, static_argnames=("length", "beams"))
def _beam_search(
    decoder: IncrementalDecoder,
    variables: Any,
    prompt: Array,
    length: int,
    beams: int,
    alpha: Array,
    stop: Array,
    pad: Array,
) -> tuple[Array, Array, Array]:
    B, T = prompt.shape
    logits, carry = decoder.step(variables, decoder.start(B, T + length), prompt)
    # The prompt is read once; from here on every row is there `beams` times.
    decoder = dataclasses.replace(decoder, memory=_repeated(decoder.memory, beams))

    def going(state: tuple[_Search, Any]) -> Array:
        search, _ = state
        # log p only falls, and no penalty is greater than that of the full length.
        bound = search.log_p[:, 0] / _penalty(length, alpha)
        return (search.n < length) & (search.score < bound).any() & ~search.is_nan

    def advance(state: tuple[_Search, Any]) -> tuple[_Search, Any]:
        search, carry = state
        last = search.tokens[:, :, search.n - 1].reshape(-1, 1)
        logits, carry = decoder.step(variables, carry, last)
        return _grow(search, carry, logits, alpha, stop)

    state = _grow(
        _beginning(B, beams, length, pad),
        _repeated(carry, beams),
        _repeated(logits, beams),
        alpha,
        stop,
    )
    search, _ = jax.lax.while_loop(going, advance, state)
    none = search.score == -jnp.inf
    tokens = jnp.where(none[:, None], search.tokens[:, 0], search.ended)
    scores = jnp.where(none, search.log_p[:, 0] / _penalty(length, alpha), search.score)
    return tokens, scores, search.is_nan


def _beginning(rows: int, beams: int, length: int, pad: Array) -> _Search:
    """The state before the first token: all beams are the same, only the first counts."""
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    return _Search(
        jnp.int32(0),
        jnp.broadcast_to(first[None], (rows, beams)),
        jnp.full((rows, beams, length), pad, jnp.int32),
        jnp.full((rows, length), pad, jnp.int32),
        jnp.full((rows,), -jnp.inf),
        jnp.array(False),
    )


def _grow(
    search: _Search, carry: Any, logits: Array, alpha: Array, stop: Array
) -> tuple[_Search, Any]:
    """Extend the beams by a token, given logits (B * beams, V)."""
    (B, beams), V = search.log_p.shape, logits.shape[-1]
    log_p = jax.nn.log_softmax(logits).reshape(B, beams, V) + search.log_p[..., None]
    # Each beam can end in one way only, so of twice as many at least `beams` are open.
    candidates = min(2, V) * beams
    log_p, index = jax.lax.top_k(log_p.reshape(B, beams * V), candidates)
    beam, token = index // V, (index % V).astype(jnp.int32)
    tokens = jnp.take_along_axis(search.tokens, beam[..., None], axis=1)
    tokens = tokens.at[:, :, search.n].set(token)

    ends = token == stop
    # One that is not among the best would let a single beam end where greedy search goes on.
    counts = ends & (jnp.arange(candidates) < beams)[None]
    scores = jnp.where(counts, log_p / _penalty(search.n + 1, alpha), -jnp.inf)
    score, winner = scores.max(axis=1), scores.argmax(axis=1)
    better = score > search.score
    ended = jnp.where(better[:, None], tokens[jnp.arange(B), winner], search.ended)
    score = jnp.where(better, score, search.score)

    log_p, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_p), beams)
    beam = jnp.take_along_axis(beam, kept, axis=1)
    rows = (jnp.arange(B)[:, None] * beams + beam).reshape(-1)
    carry = jax.tree.map(lambda leaf: leaf[rows], carry)
    tokens = jnp.take_along_axis(tokens, kept[..., None], axis=1)
    is_nan = jnp.isnan(logits).any()
    return _Search(search.n + 1, log_p, tokens, ended, score, is_nan), carry


def _repeated(tree: Any, beams: int) -> Any:
    """Leaves (B, ...) as (B * beams, ...), the beams of a row side by side."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), tree)


def _penalty(tokens: Any, alpha: Array) -> Array:
    return ((5.0 + tokens) / 6.0) ** alpha
