"""What plain and denoising autoencoders minimise."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.inputs import image_input
from jaxmodels.losses import binary_cross_entropy, flat
from jaxmodels.objectives.objective import Objective
from jaxmodels.typing import Array, Batch, Key, Model, Scalars

Noise = Callable[[Key, Array], Array]
Distance = Callable[[Array, Array], Array]


def squared_error(logits: Array, image: Array) -> Array:
    """(sigmoid(logits) - x) ** 2 of each value."""
    return jnp.square(jax.nn.sigmoid(logits) - image)


@dataclasses.dataclass(frozen=True)
class Denoising:
    """A model that in training sees its image through noise."""

    model: Model
    noise: Noise

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Make the variables."""
        return self.model.init(*args, **kwargs)

    def apply(
        self, variables: Any, image: Array, *args: Any, train: bool = False, **kwargs: Any
    ) -> Any:
        """Compute the outputs."""
        if train:
            image = self.noise(kwargs["rngs"]["sample"], image)
        return self.model.apply(variables, image, *args, train=train, **kwargs)


def reconstruction(
    model: Model, distance: Distance = binary_cross_entropy, noise: Noise | None = None
) -> Objective:
    """The distance of the model's logits (B, H, W, C) to `image` in 0..1, summed over its values.

    With noise, such as `masking_noise(0.25)`, the model sees the image through it, and is held to
    the clean one: Vincent et al. 2008, "Extracting and composing robust features with denoising
    autoencoders", section 2.3.
    """

    def score(logits: Float[Array, "B H W C"], batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        return distance(flat(logits), flat(batch["image"])).sum(axis=-1), {}

    seeing = model if noise is None else Denoising(model, noise)
    return Objective(seeing, image_input, score)


def masking_noise(rate: float) -> Noise:
    """Noise that sets each value to zero with probability `rate`."""
    if not 0 <= rate < 1:
        raise UserError(f"The rate of masking must be in [0, 1), got {rate}.")

    def apply(key: Key, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, rate, image.shape), 0, image)

    return apply


def gaussian_noise(deviation: float) -> Noise:
    """Noise that adds normal variables of that standard deviation."""
    if deviation < 0:
        raise UserError(f"A standard deviation cannot be negative, got {deviation}.")

    def apply(key: Key, image: Array) -> Array:
        return image + deviation * jax.random.normal(key, image.shape, image.dtype)

    return apply
