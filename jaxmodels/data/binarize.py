"""Binarized images: threshold, static (`fixed`) and dynamic (`stochastic`) binarization.

Images are in [0, 1]. `threshold` and `fixed(seed)` are deterministic, for `split.map`; `stochastic`
is random, for `batches(transform=...)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmodels.typing import Array, Batch, Key


def threshold(batch: Batch) -> Batch:
    """Set `image` to 1 where it is above 1/2, else to 0."""
    return {**batch, "image": (batch["image"] > 0.5).astype(jnp.float32)}


def stochastic(key: Key, batch: Batch) -> Batch:
    """Dynamic binarization: each pixel is a Bernoulli sample of its grey value, new in each step.

    Burda et al. 2016, "Importance weighted autoencoders".
    """
    image = batch["image"]
    return {**batch, "image": jax.random.bernoulli(key, image).astype(jnp.float32)}


def fixed(seed: int) -> Callable[[Batch], Batch]:
    """Static binarization: Bernoulli samples that depend on the image and the seed only.

    As in Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks",
    whose samples are other ones.
    """

    def apply(batch: Batch) -> Batch:
        image = jnp.asarray(batch["image"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), _hash(image))
        ones = jax.vmap(jax.random.bernoulli)(keys, image)
        return {**batch, "image": ones.astype(jnp.float32)}

    return apply


def _hash(image: Array) -> Array:
    """A polynomial hash modulo 2 ** 32 of each image's bytes, (B,)."""
    values = jnp.round(image.reshape(len(image), -1) * 255).astype(jnp.uint32)
    powers = jnp.cumprod(jnp.full(values.shape[1], 2654435761, jnp.uint32), dtype=jnp.uint32)
    return jnp.sum((values + 1) * powers[None], axis=1, dtype=jnp.uint32)
