"""Initialisers that compare equal where their numbers are equal, and the type of all.

Equal models then are equal, and share one compilation: Flax makes a new function at each call.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.typing import Array, Key

Initializer = Callable[..., Array]
"""`(key, shape, dtype) -> array`, as in `flax.linen.initializers`."""

xavier = nn.initializers.xavier_uniform()
"""Glorot and Bengio 2010; uniform."""
normal = functools.cache(nn.initializers.normal)
"""Normal with mean 0 and the given standard deviation."""


@functools.cache
def uniform(scale: float) -> Initializer:
    """Uniform in [-scale, scale)."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


@functools.cache
def per_part_init(init: Initializer, parts: int) -> Initializer:
    """Initialise a kernel (D, parts * F), made of `parts` kernels side by side, one by one.

    Initialisers that look at the shape, such as Glorot's, then see (D, F).
    """

    def initialize(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        rows, columns = shape
        # Not vmap: jaxlib's batched QR (of `orthogonal`) waits for threads of the pool that it runs
        # in, and several CPU devices then wait for each other for ever (jaxlib 0.10.2).
        kernels = jax.lax.map(
            lambda k: init(k, (rows, columns // parts), dtype), jax.random.split(key, parts)
        )
        return jnp.moveaxis(kernels, 0, 1).reshape(shape)

    return initialize
