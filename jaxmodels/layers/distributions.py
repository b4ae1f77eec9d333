"""Distributions of latents and of pixels: sampling, KL divergences, log-likelihoods.

All of them compute in nats, in float32, or in float64 where that is given.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.losses import binary_cross_entropy
from jaxmodels.typing import Array, Key

LOG_SCALES = -7 - math.log(2), 60.0
"""Least and greatest log-scale of a discretised logistic.

The least is that of PixelCNN++'s code, -7, for values that lie half as far apart here; below it
gradients explode. Beyond the greatest float32 would round the probability between the ends to 0.
"""


def reparameterize(
    key: Key, mean: Float[Array, "*rows Z"], log_variance: Float[Array, "*rows Z"]
) -> Float[Array, "*rows Z"]:
    """Draw mean + deviation * noise, in the mean's type; the noise is standard normal.

    Kingma and Welling 2014, "Auto-encoding variational Bayes", section 2.4.
    """
    wide_mean, log_variance = _wide(mean, log_variance)
    noise = jax.random.normal(key, mean.shape, wide_mean.dtype)
    return (wide_mean + jnp.exp(0.5 * log_variance) * noise).astype(mean.dtype)


def kl_to_standard(
    mean: Float[Array, "*rows Z"], log_variance: Float[Array, "*rows Z"]
) -> Float[Array, "*rows"]:
    """KL(N(mean, variance) || N(0, 1)), summed over Z.

    Kingma and Welling 2014, "Auto-encoding variational Bayes", appendix B.
    """
    return kl_between(mean, log_variance, jnp.zeros_like(mean), jnp.zeros_like(mean))


def kl_between(
    mean: Float[Array, "*rows Z"],
    log_variance: Float[Array, "*rows Z"],
    other_mean: Float[Array, "*rows Z"],
    other_log_variance: Float[Array, "*rows Z"],
) -> Float[Array, "*rows"]:
    """KL(N(mean, variance) || N(other_mean, other_variance)), summed over Z."""
    mean, log_variance = _wide(mean, log_variance)
    other_mean, other_log_variance = _wide(other_mean, other_log_variance)
    change = log_variance - other_log_variance
    distance = jnp.square(mean - other_mean) * jnp.exp(-other_log_variance)
    # expm1, since exp(change) - 1 loses what is left of a small change.
    return 0.5 * jnp.sum(jnp.expm1(change) - change + distance, axis=-1)


def gaussian_log_prob(
    x: Float[Array, "*#any"], mean: Float[Array, "*#any"], log_variance: Float[Array, "*#any"]
) -> Float[Array, "*any"]:
    """log N(x; mean, variance) of each element."""
    x, mean, log_variance = _wide(x, mean, log_variance)
    distance = jnp.square(x - mean) * jnp.exp(-log_variance)
    return -0.5 * (distance + log_variance + math.log(2 * math.pi))


def bernoulli_log_prob(x: Float[Array, "*#any"], logits: Float[Array, "*#any"]) -> Array:
    """x log p + (1 - x) log(1 - p) of each element, with p = sigmoid(logits).

    A log-likelihood where x is 0 or 1; in between, minus the cross-entropy.
    """
    x, logits = _wide(x, logits)
    return -binary_cross_entropy(logits, x)


def discretized_logistic_log_prob(
    x: Float[Array, "*#any"],
    mean: Float[Array, "*#any"],
    log_scale: Float[Array, "*#any"],
    levels: int = 256,
) -> Float[Array, "*any"]:
    """Log-probability of each element of x, which is one of 0, 1/(levels - 1), ..., 1.

    With h half a step and F the logistic distribution function, P(x) = F(x + h) - F(x - h); what
    lies beyond the ends belongs to the first and the last level. Salimans et al. 2017,
    "PixelCNN++", equation 2, there for values in -1..1. Scales are kept within `LOG_SCALES`.
    """
    if levels < 2:
        raise UserError(f"A discretised distribution needs at least 2 levels, got {levels}.")
    x, mean, log_scale = _wide(x, mean, log_scale)
    half = 0.5 / (levels - 1)
    inverse = jnp.exp(-jnp.clip(log_scale, *LOG_SCALES))
    upper, lower = (x - mean + half) * inverse, (x - mean - half) * inverse
    # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)), in which nothing cancels.
    below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    inside = jnp.log(-jnp.expm1(-2 * half * inverse))
    first, last = x < half, x > 1 - half
    return jnp.where(first, below, jnp.where(last, above, below + above + inside))


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Distribution p(x | z) of pixel values, given a decoder's outputs.

    Attributes:
        parameters: how many numbers a decoder computes for each value; they lie one after the
            other along the last axis, each C wide.
        log_prob: of values, given an array of each parameter, for each value.
        mean: the expected values, given the same arrays.
    """

    parameters: int
    log_prob: Callable[..., Array]
    mean: Callable[..., Array]

    def split(self, outputs: Array) -> list[Array]:
        """Split a decoder's outputs (..., parameters * C) into arrays (..., C)."""
        return jnp.split(outputs, self.parameters, axis=-1)

    def expected(self, outputs: Array) -> Array:
        """Compute the expected values (..., C) from a decoder's outputs."""
        return self.mean(*self.split(outputs))

    def log_prob_sum(
        self, image: Float[Array, "B H W C"], outputs: Float[Array, "B k H W outputs"]
    ) -> Float[Array, "B k"]:
        """log p(x | z) of each image, summed over its values, for k draws of z.

        `image` is a batch's own, not what a model was given: that may be rounded to bfloat16.
        """
        # Along one axis: XLA's CPU compiler sums over (H, W, 1) value by value, 60 times slower.
        values = image.reshape(len(image), 1, -1)
        parameters = (part.reshape(*part.shape[:2], -1) for part in self.split(outputs))
        return self.log_prob(values, *parameters).sum(axis=-1)


def _location(mean: Array, _: Array) -> Array:
    return mean


bernoulli = Likelihood(1, bernoulli_log_prob, jax.nn.sigmoid)
"""Likelihood of values in [0, 1]; a decoder computes logits."""

gaussian = Likelihood(2, gaussian_log_prob, _location)
"""Normal density, which may be above 1; a decoder computes means and log-variances."""

logistic = Likelihood(2, discretized_logistic_log_prob, _location)
"""Discretised logistic likelihood of bytes over 255; a decoder computes means and log-scales."""


def _wide(*arrays: Array) -> tuple[Array, ...]:
    return tuple(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in arrays)
