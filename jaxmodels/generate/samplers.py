"""Samplers `(key, logits (B, V)) -> ids (B,)`: greedy, temperature, top-k and top-p (nucleus).

Those made by `temperature`, `top_k` and `top_p` are pytrees, whose numbers (but k) are leaves: a
loop that was compiled for one temperature is used for all.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float, Int

from jaxmodels.errors import UserError
from jaxmodels.typing import Array, Key

Sampler = Callable[[Key, Array], Array]


def greedy(key: Key, logits: Float[Array, "B V"]) -> Int[Array, "B"]:
    """The likeliest token; the lower id of two that are equally likely."""
    del key
    return logits.argmax(axis=-1).astype(jnp.int32)


def temperature(t: float) -> Sampler:
    """Sample from softmax(logits / t): 1 is the model's own distribution, near 0 is greedy.

    Raises `UserError` unless t is a positive number.
    """
    return Partial(_tempered, _positive(t))


def top_k(k: int, temperature: float = 1.0) -> Sampler:
    """Sample from softmax(logits / temperature) among the k likeliest tokens.

    Fan et al., 2018, "Hierarchical neural story generation", section 5.1. A k above V counts as V;
    of equally likely tokens the lower ids come first.

    Raises `UserError` unless k is at least 1 and the temperature positive.
    """
    return Partial(_among(k), _positive(temperature), 1.0)


def top_p(p: float, temperature: float = 1.0, k: int | None = None) -> Sampler:
    """Nucleus sampling: from softmax(logits / temperature) among its `nucleus`.

    With k, the nucleus is that of the k likeliest tokens.

    Raises `UserError` unless 0 < p <= 1, the temperature is positive, and k at least 1.
    """
    if not 0 < p <= 1:
        raise UserError(f"top_p takes a mass p above 0 and up to 1; got {p}.")
    if k is None:
        return Partial(_from_nucleus, float(p), _positive(temperature))
    return Partial(_among(k), _positive(temperature), float(p))


def nucleus(logits: Float[Array, "B V"], p: float | Array) -> Float[Array, "B V"]:
    """Logits that are -inf outside the smallest set of likeliest tokens with a mass of at least p.

    Holtzman et al., 2020, "The curious case of neural text degeneration", section 3.1. Of equally
    likely tokens the lower ids come first; there is always one token left.
    """
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1))
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounded sums reach 1 before the last token, which p = 1 must not lose.
    inside = ((before < p) | (p >= 1)).at[:, 0].set(True)
    kept = jnp.put_along_axis(jnp.zeros_like(inside), order, inside, axis=-1, inplace=False)
    return jnp.where(kept, logits, -jnp.inf)


def _tempered(t: float | Array, key: Key, logits: Array) -> Array:
    return jax.random.categorical(key, _cool(logits, t)).astype(jnp.int32)


def _cool(logits: Array, t: float | Array) -> Array:
    """logits / t but for a constant: the largest are 0, so that none is infinite for a small t."""
    t = jnp.maximum(t, jnp.finfo(logits.dtype).tiny)  # below, t is 0 in float32
    return (logits - logits.max(axis=-1, keepdims=True)) / t


def _from_nucleus(p: float | Array, t: float | Array, key: Key, logits: Array) -> Array:
    return _tempered(1.0, key, nucleus(_cool(logits, t), p))


@dataclasses.dataclass(frozen=True)
class _Top:
    """Two with the same k are equal, as a compiled function's static parts must be."""

    k: int

    def __call__(self, t: float | Array, p: float | Array, key: Key, logits: Array) -> Array:
        largest, ids = jax.lax.top_k(logits, min(self.k, logits.shape[-1]))
        index = _from_nucleus(p, t, key, largest)
        return jnp.take_along_axis(ids, index[:, None], axis=-1)[:, 0].astype(jnp.int32)


def _among(k: int) -> _Top:
    if k < 1:
        raise UserError(f"top_k samples among k tokens, from 1 up; got k = {k}.")
    return _Top(k)


def _positive(t: float) -> float:
    if not 0 < t < math.inf:
        raise UserError(f"A temperature is a number above 0; got {t}. For 0, use `greedy`.")
    return float(t)
