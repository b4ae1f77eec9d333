"""Dropout at half the price: sixteen random bits a value decide, where others draw thirty-two."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxmodels.errors import UserError
from jaxmodels.typing import Array, Key

LEVELS = 2**16


class Dropout(nn.Module):
    """Sets values to 0 and scales the others up, so that the mean stays.

    Srivastava et al. 2014, "Dropout". The rate is rounded to a multiple of 2 ** -16, and the scale
    is that of the rounded one. Random numbers are a tenth of a small Transformer's step on a CPU.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Drop in training; needs the random stream `dropout`."""
        if not 0 <= self.rate < 1:
            raise UserError(f"A dropout rate is in 0..1, below 1; got {self.rate}.")
        dropped = round(self.rate * LEVELS)
        if not train or not dropped:
            return x
        keep = kept(self.make_rng("dropout"), x.shape, dropped)
        return jnp.where(keep, x * jnp.asarray(LEVELS / (LEVELS - dropped), x.dtype), 0)


def kept(key: Key, shape: tuple[int, ...], dropped: int) -> Bool[Array, "..."]:
    """Which values stay, each with probability 1 - dropped / 2 ** 16."""
    *rows, last = shape
    words = jax.random.bits(key, (*rows, -(-last // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*rows, -1)
    return halves[..., :last] >= dropped
