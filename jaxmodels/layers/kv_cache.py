"""The cache of keys and values for incremental decoding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.typing import CACHE, Array


def update_cache(
    module: nn.Module,
    positions: Integer[Array, "B T"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
) -> tuple[Integer[Array, "B S"], Float[Array, "B S K H"], Float[Array, "B S K H"]]:
    """Write keys and values at their positions; positions, keys and values of the whole cache.

    The cache has the length S of the input that `init` was given. What lies beyond its end is not
    written. Raises `UserError` for more than S tokens.
    """
    caches = []
    for name, new in (("k", k), ("v", v)):
        new = jnp.moveaxis(new, 1, -1)  # B K H T
        cache = module.variable(CACHE, name, jnp.zeros, new.shape, new.dtype)
        if new.shape[-1] > cache.value.shape[-1]:
            raise UserError(
                f"{new.shape[-1]} tokens do not fit into a cache of {cache.value.shape[-1]}. "
                "Make it longer: it has the length of the input that `init` was given."
            )
        if not module.is_initializing():
            cache.value = _write(cache.value, new, positions)
        caches.append(jnp.moveaxis(cache.value, -1, 1).astype(new.dtype))
    S = caches[0].shape[1]
    return jnp.broadcast_to(jnp.arange(S)[None], (len(positions), S)), *caches


def _write(
    cache: Float[Array, "B K H S"], new: Float[Array, "B K H T"], positions: Integer[Array, "B T"]
) -> Float[Array, "B K H S"]:
    new = new.astype(cache.dtype)
    if new.shape[-1] == 1:  # a comparison, where writing at each row's own place is a scatter
        at = positions[:, None, None]
        return jnp.where(jnp.arange(cache.shape[-1])[None, None, None] == at, new, cache)
    # Not `dynamic_update_slice`, which moves what does not fit over what was there before.
    return jax.vmap(lambda row, x, at: row.at[..., at].set(x, mode="drop"))(cache, new, positions)
