"""Variational autoencoders with several layers of latents, one above the other."""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.layers import distributions
from jaxmodels.layers.distributions import Likelihood, bernoulli
from jaxmodels.models.autoencoder import CODER_DIMS, DenseDecoder, Hidden, Shape, check_image_shape
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
        likelihood: of the pixels, given what the decoder computes.
    """

    posteriors: Sequence[DiagonalGaussian]
    priors: Sequence[DiagonalGaussian]
    decoder: nn.Module
    likelihood: Likelihood = bernoulli

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
        check_image_shape(self, self.decoder, image, self.likelihood.parameters)
        B, total, top = len(image), 0.0, len(self.posteriors) - 1
        mean, log_variance = self.posteriors[0](image)
        mean, log_variance = repeated(mean, samples), repeated(log_variance, samples)
        drawn = [distributions.reparameterize(self.make_rng("sample"), mean, log_variance)]
        for n, prior in enumerate(self.priors):
            total += log_density(drawn[n], mean, log_variance)
            flat = drawn[n].reshape(B * samples, -1)
            mean, log_variance = (x.reshape(B, samples, -1) for x in self.posteriors[n + 1](flat))
            drawn.append(distributions.reparameterize(self.make_rng("sample"), mean, log_variance))
            given = prior(drawn[n + 1].reshape(B * samples, -1))
            total -= log_density(drawn[n], *(x.reshape(B, samples, -1) for x in given))
        log_ratio = log_density(drawn[top], mean, log_variance) - log_density(drawn[top])
        return Draws(
            decode_draws(self.decoder, drawn[0]),
            total + distributions.kl_to_standard(mean, log_variance),
            total + log_ratio,
        )

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split, by pattern."""
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
        z = jax.random.normal(self.make_rng("sample"), (count, self.posteriors[-1].latents))
        for prior in reversed(self.priors):
            z = distributions.reparameterize(self.make_rng("sample"), *prior(z))
        return self.likelihood.expected(self.decoder(z))  # pyright: ignore[reportCallIssue]


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
            DiagonalGaussian(Hidden(tuple(w), activation), Z)
            for w, Z in zip(widths, latents, strict=True)
        ),
        tuple(
            DiagonalGaussian(Hidden(tuple(w)[::-1], activation), Z)
            for w, Z in zip(widths[1:], latents, strict=False)
        ),
        DenseDecoder(tuple(widths[0])[::-1], image_shape, activation),
    )
