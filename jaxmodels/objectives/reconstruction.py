"""Objectives of plain and denoising autoencoders."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.losses import binary_cross_entropy, check_same_shape, flat
from jaxmodels.objectives.objective import Objective
from jaxmodels.terms import Term
from jaxmodels.typing import Array, Batch, Key, Model, batch_field

Noise = Callable[[Key, Array], Array]
Distance = Callable[[Array, Array], Array]

CORRUPTED = "corrupted"
"""The field that a denoising autoencoder reads: the image with noise."""


def squared_error(logits: Array, image: Array) -> Array:
    """(sigmoid(logits) - x) ** 2 of each value."""
    return jnp.square(jax.nn.sigmoid(logits) - image)


def reconstruction(
    model: Model,
    distance: Distance = binary_cross_entropy,
    noise: Noise | None = None,
    target: str = "image",
) -> Objective:
    """The distance of logits (B, H, W, C) to the images in 0..1, summed over an image's values.

    With noise, such as `masking_noise(0.25)`, the model reads the noisy image and is compared with
    the clean one: Vincent et al. 2008, "Extracting and composing robust features with denoising
    autoencoders", section 2.3.
    """

    def score(logits: Float[Array, "B ..."], batch: Batch) -> Mapping[str, Term]:
        image = batch_field(batch, target)
        check_same_shape(logits, image, target)
        return {"reconstruction": Term(distance(flat(logits), flat(image)).sum(axis=-1))}

    if noise is None:
        return Objective(model, (target,), score)

    def corrupt(key: Key, batch: Batch) -> Batch:
        return {**batch, CORRUPTED: noise(key, batch_field(batch, target))}

    return Objective(model, (CORRUPTED,), score, prepare=corrupt)


def masking_noise(rate: float) -> Noise:
    """Noise that sets each value to zero with probability `rate`."""
    if not 0 <= rate < 1:
        raise UserError(f"The rate of masking must be in [0, 1), got {rate}.")

    def apply(key: Key, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, rate, image.shape), 0, image)

    return apply


def gaussian_noise(stddev: float) -> Noise:
    """Noise that adds normal variables of that standard deviation."""
    if not 0 <= stddev < float("inf"):
        raise UserError(f"A standard deviation is a number from 0 up, got {stddev}.")

    def apply(key: Key, image: Array) -> Array:
        return image + stddev * jax.random.normal(key, image.shape, image.dtype)

    return apply
