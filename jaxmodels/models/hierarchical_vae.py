"""Variational autoencoders with several layers of latents, one above the other."""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.layers import distributions
from jaxmodels.layers.distributions import Likelihood, bernoulli
from jaxmodels.layers.shapes import check_sizes, freeze_sequences
from jaxmodels.models.autoencoder import (
    CODER_DIMS,
    DenseDecoder,
    MLPTrunk,
    Shape,
    check_image_shape,
)
from jaxmodels.models.vae import (
    DiagonalGaussian,
    Draws,
    decode_draws,
    log_density,
    repeated,
)
from jaxmodels.typing import Array


class HierarchicalVAE(nn.Module):
    """Latents z1, ..., zL: q = q(z1 | x) q(z2 | z1) ..., and p = p(x | z1) p(z1 | z2) ... p(zL).

    Called like `models.vae.VAE`, but without conditions; the latents of `encode` and `decode` are
    those of the top layer, and on the way between the layers each is at its mean.

    Attributes:
        posteriors: q of each layer given what is below, from x up.
        priors: p of each layer but the top one given the layer above; the top's is standard normal.
        decoder: computes the parameters of p(x | z1).
        likelihood: p(x | z1), given the decoder's outputs.
    """

    posteriors: Sequence[DiagonalGaussian]
    priors: Sequence[DiagonalGaussian]
    decoder: nn.Module
    likelihood: Likelihood = bernoulli

    def __post_init__(self) -> None:
        freeze_sequences(self, "posteriors", "priors")
        if len(self.posteriors) != len(self.priors) + 1:
            raise UserError(
                "Each layer of latents has a posterior, and each but the top one a prior; got "
                f"{len(self.posteriors)} posteriors and {len(self.priors)} priors."
            )
        super().__post_init__()

    def __call__(
        self,
        image: Float[Array, "B *image"],
        *conditions: Array,
        samples: int = 1,
        train: bool = False,
    ) -> Draws:
        """Draw all latents `samples` times for each image."""
        if conditions:
            raise UserError(
                f"{type(self).__name__} takes images alone, got {len(conditions)} more inputs. "
                "Leave them out (`inputs`), or for labels take `models.vae.conditional_vae`."
            )
        check_sizes(samples=samples)
        check_image_shape(self, self.decoder, image, self.likelihood.parameters)
        dtype = image.dtype
        mean, log_variance = (repeated(x, samples) for x in self.posteriors[0](image))
        z = distributions.reparameterize(self.make_rng("sample"), mean, log_variance)
        first, log_ratio = z, 0.0
        for prior, posterior in zip(self.priors, self.posteriors[1:], strict=True):
            log_ratio += log_density(z, mean, log_variance)
            mean, log_variance = _on_draws(posterior, z.astype(dtype))
            above = distributions.reparameterize(self.make_rng("sample"), mean, log_variance)
            log_ratio -= log_density(z, *_on_draws(prior, above.astype(dtype)))
            z = above
        return Draws(
            decode_draws(self.decoder, first.astype(dtype)),
            log_ratio + distributions.kl_to_standard(mean, log_variance),
            log_ratio + log_density(z, mean, log_variance) - log_density(z),
        )

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split, by pattern."""
        return CODER_DIMS

    def encode(self, image: Float[Array, "B *image"]) -> Array:
        """Compute the top latents (B, Z), each layer's at its mean."""
        z = image
        for posterior in self.posteriors:
            z = posterior(z)[0]
        return z

    def decode(self, z: Float[Array, "B Z"]) -> Array:
        """Compute the expected images (B, H, W, C), the layers below at their means."""
        for prior in reversed(self.priors):
            z = prior(z)[0]
        return self.likelihood.expected(self.decoder(z))  # pyright: ignore[reportCallIssue]

    def sample(self, count: int) -> Array:
        """Draw the latents from the top down, and give their expected images (count, H, W, C)."""
        shape = count, self.posteriors[-1].latents
        z = jax.random.normal(self.make_rng("sample"), shape, jnp.float32)
        for prior in reversed(self.priors):
            z = distributions.reparameterize(self.make_rng("sample"), *prior(z))
        return self.likelihood.expected(self.decoder(z))  # pyright: ignore[reportCallIssue]


def _on_draws(network: DiagonalGaussian, z: Float[Array, "B k Z"]) -> tuple[Array, Array]:
    """Means and log-variances (B, k, Z) that a network computes of each draw."""
    mean, log_variance = network(z.reshape(-1, z.shape[-1]))
    return mean.reshape(*z.shape[:2], -1), log_variance.reshape(*z.shape[:2], -1)


def burda_vae(
    image_shape: Shape = (28, 28, 1),
    latents: Sequence[int] = (100, 50),
    widths: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
    activation: Callable[[Array], Array] = nn.tanh,
) -> HierarchicalVAE:
    """Two stochastic layers, 784-200-200-100-100-100-50 and back: 521,084 parameters.

    Burda et al. 2016, "Importance weighted autoencoders", section 5. `widths[n]` are the
    deterministic layers below latents n, on the way up; on the way down in the reverse order.
    """
    if len(latents) != len(widths) or not latents:
        raise UserError(
            f"Each layer of latents has its deterministic layers below it: got {len(latents)} "
            f"latents {tuple(latents)} and {len(widths)} groups of widths {tuple(widths)}."
        )
    return HierarchicalVAE(
        tuple(
            DiagonalGaussian(MLPTrunk(tuple(w), activation), Z)
            for w, Z in zip(widths, latents, strict=True)
        ),
        tuple(
            DiagonalGaussian(MLPTrunk(tuple(w)[::-1], activation), Z)
            for w, Z in zip(widths[1:], latents, strict=False)
        ),
        DenseDecoder(tuple(widths[0])[::-1], image_shape, activation),
    )
