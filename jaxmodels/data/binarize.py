"""Images of zeros and ones, made of grey ones in [0, 1].

`threshold` and `drawn(seed)` are deterministic and go to `map`; `draw` is random, a transform.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmodels.typing import Array, Batch, Key


def threshold(batch: Batch) -> Batch:
    """1 where `image` is above 1/2, else 0; images of zeros and ones stay as they are."""
    return {**batch, "image": (batch["image"] > 0.5).astype(jnp.float32)}


def draw(key: Key, batch: Batch) -> Batch:
    """1 with the probability that the grey value is, anew in each step.

    Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks", drew
    once; Burda et al. 2016, "Importance weighted autoencoders", draw for each step.
    """
    image = batch["image"]
    return {**batch, "image": jax.random.bernoulli(key, image).astype(jnp.float32)}


def drawn(seed: int) -> Callable[[Batch], Batch]:
    """As `draw`, but always the same for the same image and seed, in whatever batch it stands."""

    def apply(batch: Batch) -> Batch:
        image = jnp.asarray(batch["image"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), _codes(image))
        ones = jax.vmap(jax.random.bernoulli)(keys, image)
        return {**batch, "image": ones.astype(jnp.float32)}

    return apply


def _codes(image: Array) -> Array:
    """A number for each image, made of its bytes: a polynomial hash modulo 2 ** 32."""
    values = jnp.round(image.reshape(len(image), -1) * 255).astype(jnp.uint32)
    powers = jnp.cumprod(jnp.full(values.shape[1], 2654435761, jnp.uint32), dtype=jnp.uint32)
    return jnp.sum((values + 1) * powers[None], axis=1, dtype=jnp.uint32)
