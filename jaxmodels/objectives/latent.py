"""Variational bounds of the log-likelihood of models with latents (ELBO, IWAE).

Such a model returns `Draws` (`models.vae`): the decoder's outputs, the KL divergence and the log
ratio of k draws of the latents of each of B images. The likelihood of the image is computed here,
from the batch's own values in float32.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.adapters import WithArguments, with_arguments
from jaxmodels.errors import UserError
from jaxmodels.objectives.objective import Objective
from jaxmodels.terms import Schedule, Term
from jaxmodels.typing import Array, Batch, Model, batch_field, field_names


def elbo(
    model: Model,
    beta: float | Schedule = 1.0,
    samples: int = 1,
    inputs: str | Sequence[str] = ("image",),
    target: str = "image",
) -> Objective:
    """Minus the evidence lower bound in nats per image: -log p(x|z) + beta KL(q(z|x) || p(z)).

    Kingma and Welling 2014, "Auto-encoding variational Bayes", equations 3 and 7; with another
    beta than 1 Higgins et al. 2017, "beta-VAE", equation 4, which below 1 is no bound. `beta` may
    be a schedule of the step, such as a warm-up `optax.linear_schedule(0.0, 1.0, 1_000)`. Terms
    `reconstruction` and `kl` are means over `samples` draws; `inputs` may add a label.
    """
    if not callable(beta) and not 0 <= beta < float("inf"):
        raise UserError(
            f"beta weighs the KL divergence: a number from 0 up; got {beta}. "
            "1 makes the loss a bound, 0 leaves the latents free."
        )
    drawing = _with_samples(model, samples)

    def score(draws: Any, batch: Batch) -> Mapping[str, Term]:
        reconstruction, kl = _parts(drawing, draws, batch_field(batch, target))
        return {"reconstruction": Term(reconstruction), "kl": Term(kl, coefficient=beta)}

    return Objective(drawing, field_names(inputs), score)


def iwae(
    model: Model, samples: int, inputs: Sequence[str] = ("image",), target: str = "image"
) -> Objective:
    """Minus the importance-weighted bound, -log(1/k sum p(x, z) / q(z|x)), in nats per image.

    Burda et al. 2016, "Importance weighted autoencoders", equation 8, with k = `samples`. Reported
    besides are `reconstruction` and `kl`, means over the draws: their sum is what `elbo` would be.
    """
    drawing = _with_samples(model, samples)

    def score(draws: Any, batch: Batch) -> Mapping[str, Term]:
        image = batch_field(batch, target)
        log_weights = drawing.likelihood.log_prob_sum(image, draws.outputs) - draws.log_ratio
        bound = jax.nn.logsumexp(log_weights, axis=1) - jnp.log(jnp.float32(samples))
        reconstruction, kl = _parts(drawing, draws, image)
        return {
            "bound": Term(-bound),
            "reconstruction": Term(reconstruction, coefficient=0.0),
            "kl": Term(kl, coefficient=0.0),
        }

    return Objective(drawing, field_names(inputs), score)


def _with_samples(model: Model, samples: int) -> WithArguments:
    if samples < 1:
        raise UserError(f"A bound needs at least one sample of the latents, got {samples}.")
    return with_arguments(model, samples=samples)


def _parts(model: Any, draws: Any, image: Array) -> tuple[Array, Array]:
    log_likelihood = model.likelihood.log_prob_sum(image, draws.outputs)
    return -log_likelihood.mean(axis=1), draws.kl.mean(axis=1)
