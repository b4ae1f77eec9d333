"""Position embeddings: learned, sinusoidal, rotary, ALiBi; and the positions themselves."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.layers.initializers import Initializer, normal
from jaxmodels.typing import CACHE, Array


class Positions(nn.Module):
    """The positions of tokens: from 0 on, or with `cache` from where the last call ended."""

    @nn.compact
    def __call__(self, tokens: Integer[Array, "B T"], cache: bool = False) -> Integer[Array, "B T"]:
        """Count; the tokens read so far (B,) are in the collection `cache`."""
        steps = jnp.arange(tokens.shape[1])[None]
        if not cache:
            return jnp.broadcast_to(steps, tokens.shape)
        passed = self.variable(CACHE, "position", jnp.zeros, (len(tokens),), jnp.int32)
        positions = passed.value[:, None] + steps
        if not self.is_initializing():
            passed.value = passed.value + tokens.shape[1]
        return positions


def segment_positions(segments: Integer[Array, "B T"]) -> Integer[Array, "B T"]:
    """The position of each token of packed rows within its document, 0 for the first."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    new = segments != jnp.roll(segments, 1, axis=1)
    return index - jax.lax.cummax(jnp.where(new, index, 0), axis=1)


class LearnedPositions(nn.Module):
    """A trained vector for each of `context` positions."""

    context: int
    features: int
    embedding_init: Initializer = normal(0.02)

    @nn.compact
    def __call__(self, positions: Integer[Array, "B T"]) -> Float[Array, "B T D"]:
        """Look them up; NaN for a position beyond the context."""
        init = self.embedding_init
        return nn.Embed(self.context, self.features, embedding_init=init, name="table")(positions)


class SinusoidalPositions(nn.Module):
    """sin and cos of geometric frequencies, alternating.

    Vaswani et al. 2017, "Attention is all you need", section 3.5.
    """

    features: int

    def __call__(self, positions: Integer[Array, "B T"]) -> Float[Array, "B T D"]:
        """Compute them in float32, for any position."""
        rates = np.exp(-math.log(10_000) * np.arange(0, self.features, 2) / self.features)
        angles = positions[..., None] * jnp.asarray(rates, jnp.float32)[None, None]
        both = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)  # B T D/2 2
        return both.reshape(*positions.shape, -1)[..., : self.features]


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotate each pair (i, i + H / 2) of a head by its position times base ** (-2 i / H).

    Su et al. 2021, "RoFormer", section 3.2: a query and a key then see only the distance between
    them. The pairing is that of Llama's weights as Hugging Face has them (`rotate_half`); the paper
    and Meta's own files pair (2 i, 2 i + 1). In float32. `UserError` where H is odd.
    """

    base: float = 10_000.0

    def __call__(
        self, x: Float[Array, "B T N H"], positions: Integer[Array, "B T"]
    ) -> Float[Array, "B T N H"]:
        """Rotate queries or keys."""
        half, odd = divmod(x.shape[-1], 2)
        if odd:
            raise UserError(f"Rotary positions rotate pairs of features; a head has {x.shape[-1]}.")
        rates = jnp.asarray(self.base ** (-np.arange(half) / half), jnp.float32)
        angles = positions[:, :, None, None] * rates[None, None, None]  # B T 1 H/2
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        one, two = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        y = jnp.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)
        return y.astype(x.dtype)


def alibi(
    num_heads: int, queries: Integer[Array, "B T"], keys: Integer[Array, "B S"]
) -> Float[Array, "B N T S"]:
    """ALiBi: a bias on the scores that falls linearly with the distance, at a slope per head.

    Press et al. 2022, "Train short, test long", section 3: head n of N has the slope
    2 ** (-8 n / N); where N is no power of two, the slopes of the next lower one come first, then
    every second of the next higher one.
    """
    distance = jnp.abs(queries[:, None, :, None] - keys[:, None, None, :])
    slopes = jnp.asarray(alibi_slopes(num_heads), jnp.float32)
    return -slopes[None, :, None, None] * distance


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slopes of `alibi`, (N,)."""
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8 * np.arange(1, lower + 1) / lower)
    between = 2.0 ** (-8 * np.arange(1, 2 * lower + 1, 2) / (2 * lower))
    return np.concatenate([slopes, between[: num_heads - lower]])
