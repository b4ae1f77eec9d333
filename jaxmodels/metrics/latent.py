"""Models with latents, and plain autoencoders, judged; all in nats per image."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.inputs import image_input
from jaxmodels.losses import binary_cross_entropy, flat
from jaxmodels.metrics.evaluation import Evaluation, Figures, Totals, count
from jaxmodels.typing import Array, Batch, Model

Inputs = Callable[[Batch], tuple]


def elbo(model: Any, split: Any, inputs: Inputs = image_input) -> Evaluation:
    """Judge a model with latents by the evidence lower bound, of one draw for each image.

    Figures: `nll` = `reconstruction` + `kl`, an upper bound of -log p(x); `elbo`, the same with the
    other sign; `bits_per_dim`, the same in bits per value of an image.
    """

    def statistics(draws: Any, batch: Batch) -> dict[str, Array]:
        mask = batch["mask"]
        log_likelihood = model.likelihood.log_prob_sum(batch["image"], draws.outputs)
        return {
            "reconstruction": _sum(-log_likelihood.mean(axis=1), mask),
            "kl": _sum(draws.kl.mean(axis=1), mask),
            **_counts(batch),
        }

    def summary(totals: Totals) -> Figures:
        parts = {name: _mean(totals, name) for name in ("reconstruction", "kl")}
        nll = sum(parts.values())
        return {"nll": nll, "elbo": -nll, **parts, "bits_per_dim": _bits(nll, totals)}

    return Evaluation(model, split, inputs, statistics, summary)


def iwae(
    model: Any, split: Any, samples: int = 5_000, chunk: int = 50, inputs: Inputs = image_input
) -> Evaluation:
    """Judge a model with latents by an estimate of -log p(x) from `samples` weighted draws.

    Figures: `nll` and `bits_per_dim`. The estimate is above -log p(x) in the mean, and falls to it
    as samples grow: Burda et al. 2016, "Importance weighted autoencoders", equation 8 and theorem
    1; their figures are of 5,000. `chunk` draws of 100 images at a time are in memory.
    """
    if samples < 1 or chunk < 1 or samples % chunk:
        raise UserError(
            f"The samples are drawn in chunks of equal size: got {samples} samples in chunks of "
            f"{chunk}. Take a multiple of the chunk, or another chunk."
        )

    def statistics(log_likelihood: Array, batch: Batch) -> dict[str, Array]:
        return {"nll": _sum(-log_likelihood, batch["mask"]), **_counts(batch)}

    def summary(totals: Totals) -> Figures:
        nll = _mean(totals, "nll")
        return {"nll": nll, "bits_per_dim": _bits(nll, totals)}

    weighted = Weighted(model, samples, chunk)
    return Evaluation(weighted, split, inputs, statistics, summary, batch_size=100)


def reconstruction(model: Model, split: Any) -> Evaluation:
    """Judge a plain autoencoder, whose outputs are logits (B, H, W, C), by the image itself.

    Figures: `cross_entropy`, the binary one, in nats per image; `mse` of sigmoid(logits), the mean
    over the values of an image.
    """

    def statistics(logits: Float[Array, "B H W C"], batch: Batch) -> dict[str, Array]:
        logits, image = flat(logits), flat(batch["image"])
        entropy = binary_cross_entropy(logits, image)
        error = jnp.square(jax.nn.sigmoid(logits) - image)
        return {
            "cross_entropy": _sum(entropy.sum(axis=-1), batch["mask"]),
            "squared_error": _sum(error.sum(axis=-1), batch["mask"]),
            **_counts(batch),
        }

    def summary(totals: Totals) -> Figures:
        return {
            "cross_entropy": _mean(totals, "cross_entropy"),
            "mse": float(totals["squared_error"] / totals["values"]),
        }

    return Evaluation(model, split, image_input, statistics, summary)


@dataclasses.dataclass(frozen=True)
class Weighted:
    """The log-likelihood (B,) that a model with latents gives its images, estimated.

    log(1/k sum p(x, z) / q(z|x)) over k = `samples` draws, of which `chunk` are made at a time.
    """

    model: Any
    samples: int
    chunk: int

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Make the variables."""
        return self.model.init(*args, **kwargs)

    def apply(
        self, variables: Any, *inputs: Array, rngs: Any, mutable: Any = False, **kwargs: Any
    ) -> Any:
        """Compute the estimates; the collections do not change."""

        def add(total: Array, n: Array) -> tuple[Array, None]:
            keys = {name: jax.random.fold_in(key, n) for name, key in rngs.items()}
            draws = self.model.apply(variables, *inputs, samples=self.chunk, rngs=keys, **kwargs)
            log_likelihood = self.model.likelihood.log_prob_sum(inputs[0], draws.outputs)
            found = jax.nn.logsumexp(log_likelihood - draws.log_ratio, axis=1)
            return jnp.logaddexp(total, found), None

        start = jnp.full(len(inputs[0]), -jnp.inf)
        total, _ = lax.scan(add, start, jnp.arange(self.samples // self.chunk))
        estimate = total - math.log(self.samples)
        return estimate if mutable is False else (estimate, {})


def _counts(batch: Batch) -> dict[str, Array]:
    images = count(batch["mask"])
    return {"count": images, "values": images * math.prod(batch["image"].shape[1:])}


def _sum(values: Float[Array, " B"], mask: Array) -> Array:
    return jnp.where(mask, values, 0.0).sum()


def _mean(totals: Totals, name: str) -> float:
    return float(totals[name] / totals["count"])


def _bits(nll: float, totals: Totals) -> float:
    return float(nll * totals["count"] / totals["values"] / math.log(2))
