"""Bounds of the log-likelihood of models with latents.

A model with latents returns `Draws` and has a `likelihood`; see `models.vae`. log p(x | z) is
computed here, from the batch's own images: those that the model reads may be rounded to bfloat16.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.inputs import image_input
from jaxmodels.objectives.objective import Objective
from jaxmodels.typing import Array, Batch, Model, Scalars

Inputs = Callable[[Batch], tuple[Any, ...]]


def image_and_label(batch: Batch) -> tuple[Any, ...]:
    """Pick "image" and "label", for models of images given their labels."""
    return batch["image"], batch["label"]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A model with latents that draws them `samples` times."""

    model: Model
    samples: int

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Make the variables, which the number of samples does not change."""
        return self.model.init(*args, **kwargs)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs."""
        return self.model.apply(*args, samples=self.samples, **kwargs)


def elbo(
    model: Any, beta: float = 1.0, samples: int = 1, inputs: Inputs = image_input
) -> Objective:
    """Minus the evidence lower bound in nats per image: -log p(x|z) + beta KL(q(z|x) || p(z)).

    Kingma and Welling 2014, "Auto-encoding variational Bayes", equations 3 and 7; with another
    beta than 1 Higgins et al. 2017, "beta-VAE", equation 4, which below 1 is no bound. The terms
    are means over `samples` draws; scalars `reconstruction` and `kl`, before the weighting.
    """
    if not 0 <= beta < float("inf"):
        raise UserError(
            f"beta weighs the KL divergence: a number from 0 up; got {beta}. "
            "1 makes the loss a bound, 0 leaves the latents free."
        )

    def score(draws: Any, batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        terms = _terms(draws, model.likelihood.log_prob_sum(batch["image"], draws.outputs))
        return terms["reconstruction"] + beta * terms["kl"], terms

    return Objective(_drawing(model, samples), inputs, score)


def iwae(model: Any, samples: int, inputs: Inputs = image_input) -> Objective:
    """Minus the importance-weighted bound, -log(1/k sum p(x, z) / q(z|x)), in nats per image.

    Burda et al. 2016, "Importance weighted autoencoders", equation 8, with k = `samples`. Scalars
    `reconstruction` and `kl` are the mean over the draws: their sum is what `elbo` would be.
    """

    def score(draws: Any, batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        log_likelihood = model.likelihood.log_prob_sum(batch["image"], draws.outputs)
        log_weights = log_likelihood - draws.log_ratio
        bound = jax.nn.logsumexp(log_weights, axis=1) - math.log(samples)
        return -bound, _terms(draws, log_likelihood)

    return Objective(_drawing(model, samples), inputs, score)


def _drawing(model: Model, samples: int) -> Drawing:
    if samples < 1:
        raise UserError(f"A bound needs at least one sample of the latents, got {samples}.")
    return Drawing(model, samples)


def _terms(draws: Any, log_likelihood: Array) -> dict[str, Array]:
    return {
        "reconstruction": -log_likelihood.mean(axis=1),
        "kl": draws.kl.mean(axis=1),
    }
