"""Variational autoencoders (Kingma and Welling 2014, "Auto-encoding variational Bayes").

A model of latents z and images x is called as `apply(variables, image, *conditions, samples=k)` and
returns `Draws`, from which objectives and metrics compute their bounds with the model's
`likelihood`. It further has, by `method=...`, `encode(image, *conditions) -> z` (the mean of the
posterior), `decode(z, *conditions) -> images` (their expected values) and
`sample(count, *conditions) -> images`. Conditions are arrays (B,) or (B, ...) such as labels, for
encoders and decoders that take them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.layers import distributions
from jaxmodels.layers.dense import OutputDense
from jaxmodels.layers.distributions import Likelihood, bernoulli
from jaxmodels.layers.shapes import check_sizes
from jaxmodels.models.autoencoder import (
    CODER_DIMS,
    Conditioned,
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    MLPTrunk,
    Shape,
    check_image_shape,
)
from jaxmodels.typing import Array


class Draws(NamedTuple):
    """k draws z from the posterior q(z | x) of each of B images x; divergences in nats.

    log p(x | z) is `model.likelihood.log_prob_sum(image, draws.outputs)`.

    Attributes:
        outputs: the decoder's parameters of p(x | z), P for each value of an image (P C wide).
        kl: of mean KL(q(z | x) || p(z)) over draws; without noise where there is a formula.
        log_ratio: log q(z | x) - log p(z).
    """

    outputs: Float[Array, "B k H W outputs"]
    kl: Float[Array, "B k"]
    log_ratio: Float[Array, "B k"]


class DiagonalGaussian(nn.Module):
    """Mean and log-variance of Z independent normal variables, computed from a body's features."""

    body: nn.Module
    latents: int

    def __post_init__(self) -> None:
        check_sizes(latents=self.latents)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *conditions: Array) -> tuple[Array, Array]:
        """Compute means and log-variances, each (B, Z), in float32 at least."""
        features = self.body(x, *conditions)  # pyright: ignore[reportCallIssue]
        glorot = nn.initializers.glorot_uniform()
        mean = OutputDense(self.latents, kernel_init=glorot, name="mean")
        log_variance = OutputDense(self.latents, kernel_init=glorot, name="log_variance")
        return mean(features), log_variance(features)


class VAE(nn.Module):
    """One layer of latents with a standard normal prior.

    Attributes:
        posterior: computes mean and log-variance of q(z | x).
        decoder: computes the parameters of p(x | z).
        likelihood: p(x | z), given the decoder's outputs.
    """

    posterior: DiagonalGaussian
    decoder: nn.Module
    likelihood: Likelihood = bernoulli

    def __call__(
        self,
        image: Float[Array, "B *image"],
        *conditions: Array,
        samples: int = 1,
        train: bool = False,
    ) -> Draws:
        """Draw z `samples` times for each image."""
        check_sizes(samples=samples)
        check_image_shape(self, self.decoder, image, self.likelihood.parameters)
        mean, log_variance = self.posterior(image, *conditions)
        kl = distributions.kl_to_standard(mean, log_variance)
        mean, log_variance = repeated(mean, samples), repeated(log_variance, samples)
        z = distributions.reparameterize(self.make_rng("sample"), mean, log_variance)
        return Draws(
            decode_draws(self.decoder, z.astype(image.dtype), *conditions),
            jnp.broadcast_to(kl[:, None], (len(kl), samples)),
            log_density(z, mean, log_variance) - log_density(z),
        )

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split, by pattern."""
        return CODER_DIMS

    def encode(self, image: Float[Array, "B *image"], *conditions: Array) -> Array:
        """Compute the mean of q(z | x), (B, Z)."""
        return self.posterior(image, *conditions)[0]

    def decode(self, z: Float[Array, "B Z"], *conditions: Array) -> Array:
        """Compute the expected images (B, H, W, C) of latents."""
        return self.likelihood.expected(self.decoder(z, *conditions))  # pyright: ignore[reportCallIssue]

    def sample(self, count: int, *conditions: Array) -> Array:
        """Draw latents from the prior, and give their expected images (count, H, W, C)."""
        shape = count, self.posterior.latents
        z = jax.random.normal(self.make_rng("sample"), shape, jnp.float32)
        return self.decode(z, *conditions)


def repeated(x: Float[Array, "B Z"], times: int) -> Float[Array, "B k Z"]:
    """Each row `times` times."""
    return jnp.broadcast_to(x[:, None], (x.shape[0], times, *x.shape[1:]))


def log_density(
    z: Float[Array, "*rows Z"],
    mean: Float[Array, "*rows Z"] | None = None,
    log_variance: Float[Array, "*rows Z"] | None = None,
) -> Float[Array, "*rows"]:
    """log N(z; mean, variance) of each row; standard normal without them."""
    zero = jnp.zeros_like(z)
    mean = zero if mean is None else mean
    log_variance = zero if log_variance is None else log_variance
    return distributions.gaussian_log_prob(z, mean, log_variance).sum(axis=-1)


def decode_draws(
    decoder: nn.Module, z: Float[Array, "B k Z"], *conditions: Array
) -> Float[Array, "B k H W outputs"]:
    """Decode k latents of each image; conditions have a row for each image."""
    B, k, Z = z.shape
    conditions = tuple(jnp.repeat(condition, k, axis=0) for condition in conditions)
    outputs = decoder(z.reshape(B * k, Z), *conditions)  # pyright: ignore[reportCallIssue]
    return outputs.reshape(B, k, *outputs.shape[1:])


def mlp_vae(
    image_shape: Shape = (28, 28, 1),
    hidden: Sequence[int] = (500,),
    latents: int = 20,
    activation: Callable[[Array], Array] = nn.relu,
    likelihood: Likelihood = bernoulli,
) -> VAE:
    """Dense layers; 784-500-20-500-784, Flax's example, by default: 815,824 parameters.

    PyTorch's example is `hidden=(400,)`: 652,824. Burda et al.'s of one stochastic layer (2016,
    "Importance weighted autoencoders", section 5) is `hidden=(200, 200), latents=50,
    activation=nn.tanh`: 425,284.
    """
    H, W, C = image_shape
    return VAE(
        DiagonalGaussian(MLPTrunk(tuple(hidden), activation), latents),
        DenseDecoder(tuple(hidden)[::-1], (H, W, C * likelihood.parameters), activation),
        likelihood,
    )


def conditional_vae(
    num_classes: int = 10,
    image_shape: Shape = (28, 28, 1),
    hidden: Sequence[int] = (500,),
    latents: int = 20,
) -> VAE:
    """Conditional `mlp_vae`, of images given labels: 825,824 parameters for ten classes."""
    return VAE(
        DiagonalGaussian(Conditioned(MLPTrunk(tuple(hidden)), num_classes), latents),
        Conditioned(DenseDecoder(tuple(hidden)[::-1], image_shape), num_classes),
    )


def conv_vae(
    image_shape: Shape = (28, 28, 1),
    channels: Sequence[int] = (32, 64),
    features: int = 16,
    latents: int = 2,
    likelihood: Likelihood = bernoulli,
) -> VAE:
    """Convolutions, with as many parameters as Keras's example "vae": 69,076 + 65,089."""
    H, W, C = image_shape
    shape = (H, W, C * likelihood.parameters)
    return VAE(
        DiagonalGaussian(ConvEncoder(tuple(channels), features), latents),
        ConvDecoder(tuple(channels)[::-1], shape),
        likelihood,
    )
