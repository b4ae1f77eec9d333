"""Where a token stands: added to its embedding, turned into its keys, or a bias on its scores."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxmodels.errors import UserError
from jaxmodels.typing import CARRY, Array


class Positions(nn.Module):
    """The positions of tokens: from 0 on, or from where the last call ended."""

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], carry: bool = False) -> Int[Array, "B T"]:
        """Count."""
        steps = jnp.arange(tokens.shape[1])[None]
        if not carry:
            return jnp.broadcast_to(steps, tokens.shape)
        passed = self.variable(CARRY, "position", jnp.zeros, (len(tokens),), jnp.int32)
        positions = passed.value[:, None] + steps
        if not self.is_initializing():
            passed.value = passed.value + tokens.shape[1]
        return positions


class LearnedPositions(nn.Module):
    """A trained vector for each of `context` positions."""

    context: int
    features: int
    stddev: float = 0.02

    @nn.compact
    def __call__(self, positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Look them up."""
        init = nn.initializers.normal(self.stddev)
        return nn.Embed(self.context, self.features, embedding_init=init, name="table")(positions)


class SinusoidalPositions(nn.Module):
    """sin and cos of geometric frequencies, in turn.

    Vaswani et al. 2017, "Attention is all you need", section 3.5.
    """

    context: int
    features: int

    def __call__(self, positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Compute them in float32, for any position."""
        rates = np.exp(-math.log(10_000) * np.arange(0, self.features, 2) / self.features)
        angles = positions[..., None] * jnp.asarray(rates, jnp.float32)[None, None]
        both = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)  # B T D/2 2
        return both.reshape(*positions.shape, -1)[..., : self.features]


def rotary(
    x: Float[Array, "B T N H"], positions: Int[Array, "B T"], base: float = 10_000.0
) -> Float[Array, "B T N H"]:
    """Turn each pair (i, i + H / 2) of a head by its position times base ** (-2 i / H).

    Su et al. 2021, "RoFormer", section 3.2: a query and a key then see the distance between them
    only. The pairing is that of Llama's weights as Hugging Face has them (`rotate_half`); the paper
    and Meta's own files pair (2 i, 2 i + 1). In float32. `UserError` where H is odd.
    """
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise UserError(f"Rotary positions turn pairs of features; a head has {x.shape[-1]}.")
    rates = jnp.asarray(base ** (-np.arange(half) / half), jnp.float32)
    angles = positions[:, :, None, None] * rates[None, None, None]  # B T 1 H/2
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    one, two = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1).astype(x.dtype)


def alibi(
    num_heads: int, queries: Int[Array, "B T"], keys: Int[Array, "B S"]
) -> Float[Array, "B N T S"]:
    """A bias on the scores that falls linearly with the distance, for each head at its own rate.

    Press et al. 2022, "Train short, test long", section 3: head n of N falls by 2 ** (-8 n / N);
    where N is no power of two, the rates of the next lower one come first, then every second of
    the next higher one.
    """
    distance = jnp.abs(queries[:, None, :, None] - keys[:, None, None, :])
    slopes = jnp.asarray(alibi_slopes(num_heads), jnp.float32)
    return -slopes[None, :, None, None] * distance


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The rates of `alibi`, (N,)."""
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8 * np.arange(1, lower + 1) / lower)
    between = 2.0 ** (-8 * np.arange(1, 2 * lower + 1, 2) / (2 * lower))
    return np.concatenate([slopes, between[: num_heads - lower]])
