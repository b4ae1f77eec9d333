"""Metrics of models with latents and of plain autoencoders, in nats per image.

The likelihood of an image is computed here, from the batch's own values in float32.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxmodels.adapters import Adapter
from jaxmodels.errors import UserError
from jaxmodels.losses import binary_cross_entropy, check_same_shape, flat
from jaxmodels.metric import Metric
from jaxmodels.metrics.evaluation import Evaluation, Metrics, Totals, count_true, masked_sum
from jaxmodels.typing import Array, Batch, Model, batch_field, field_names

NATS = Metric("nats", higher_is_better=False)
TYPES = {
    "nll": NATS,
    "elbo": Metric("nats", higher_is_better=True),
    "reconstruction": NATS,
    "kl": Metric("nats"),
    "bits_per_dim": Metric("bits", higher_is_better=False),
}


def elbo(
    model: Model, split: Any, inputs: Sequence[str] = ("image",), target: str = "image"
) -> Evaluation:
    """Evaluate a model with latents by the evidence lower bound, of one draw for each image.

    Metrics: `nll` = `reconstruction` + `kl`, an upper bound of -log p(x); `elbo`, the same with the
    other sign; `bits_per_dim`, the same in bits per value of an image.
    """

    def statistics(draws: Any, batch: Batch) -> dict[str, Array]:
        log_likelihood = _likelihood(model).log_prob_sum(batch_field(batch, target), draws.outputs)
        return {
            "reconstruction": masked_sum(-log_likelihood.mean(axis=1), batch["mask"]),
            "kl": masked_sum(draws.kl.mean(axis=1), batch["mask"]),
            "count": count_true(batch["mask"]),
        }

    def summary(totals: Totals) -> Metrics:
        parts = {name: _mean(totals, name) for name in ("reconstruction", "kl")}
        nll = sum(parts.values())
        bits = _bits_per_dim(nll, split, target)
        return {"nll": nll, "elbo": -nll, **parts, "bits_per_dim": bits}

    return Evaluation(
        model, split, field_names(inputs), statistics, summary, TYPES, per_example_keys=True
    )


def iwae(
    model: Model,
    split: Any,
    samples: int = 5_000,
    chunk: int = 50,
    inputs: str | Sequence[str] = ("image",),
    target: str = "image",
) -> Evaluation:
    """Evaluate a model with latents by an estimate of -log p(x) from `samples` weighted draws.

    Metrics: `nll` and `bits_per_dim`. The estimate is above -log p(x) in the mean, and falls to it
    as samples grow: Burda et al. 2016, "Importance weighted autoencoders", equation 8 and theorem
    1; their results are of 5,000. `chunk` draws of 100 images at a time are in memory.
    """
    if samples < 1 or chunk < 1 or samples % chunk:
        raise UserError(
            f"The samples are drawn in chunks of equal size: got {samples} samples in chunks of "
            f"{chunk}. Take a multiple of the chunk, or another chunk."
        )

    def statistics(log_likelihood: Array, batch: Batch) -> dict[str, Array]:
        mask = batch["mask"]
        return {"nll": masked_sum(-log_likelihood, mask), "count": count_true(mask)}

    def summary(totals: Totals) -> Metrics:
        nll = _mean(totals, "nll")
        return {"nll": nll, "bits_per_dim": _bits_per_dim(nll, split, target)}

    return Evaluation(
        ImportanceWeighted(model, samples, chunk),
        split,
        (target, *field_names(inputs)),
        statistics,
        summary,
        {name: TYPES[name] for name in ("nll", "bits_per_dim")},
        batch_size=100,
        per_example_keys=True,
    )


def reconstruction(
    model: Model, split: Any, inputs: Sequence[str] = ("image",), target: str = "image"
) -> Evaluation:
    """Evaluate a plain autoencoder, whose outputs are logits (B, H, W, C), by the image itself.

    Metrics: `cross_entropy`, the binary one, in nats per image; `mse` of sigmoid(logits), the mean
    over the values of an image.
    """

    def statistics(logits: Float[Array, "B ..."], batch: Batch) -> dict[str, Array]:
        check_same_shape(logits, batch_field(batch, target), target)
        logits, image, mask = flat(logits), flat(batch_field(batch, target)), batch["mask"]
        error = jnp.square(jax.nn.sigmoid(logits) - image)
        return {
            "cross_entropy": masked_sum(binary_cross_entropy(logits, image).sum(axis=-1), mask),
            "squared_error": masked_sum(error.mean(axis=-1), mask),
            "count": count_true(mask),
        }

    def summary(totals: Totals) -> Metrics:
        return {
            "cross_entropy": _mean(totals, "cross_entropy"),
            "mse": _mean(totals, "squared_error"),
        }

    types = {"cross_entropy": NATS, "mse": Metric("", higher_is_better=False)}
    return Evaluation(model, split, field_names(inputs), statistics, summary, types)


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted(Adapter):
    """The log-likelihood (B,) that a model with latents gives its images, estimated by sampling.

    log(1/k sum p(x, z) / q(z|x)) over k = `samples` draws, of which `chunk` are made at a time.
    """

    samples: int
    chunk: int

    def init(self, rngs: Any, image: Array, *inputs: Array, **kwargs: Any) -> Any:
        """Make the model's variables; `image` is only scored."""
        return self.model.init(rngs, *inputs, **kwargs)

    def apply(
        self,
        variables: Any,
        image: Float[Array, "B H W C"],
        *inputs: Array,
        rngs: Any,
        mutable: Any = False,
        **kwargs: Any,
    ) -> Any:
        """Compute the estimates for `image` with the model's `inputs`; no collection changes."""
        likelihood = _likelihood(self.model)

        def add(total: Array, n: Array) -> tuple[Array, None]:
            keys = {name: jax.random.fold_in(key, n) for name, key in rngs.items()}
            draws = self.model.apply(variables, *inputs, samples=self.chunk, rngs=keys, **kwargs)
            log_weights = likelihood.log_prob_sum(image, draws.outputs) - draws.log_ratio
            return jnp.logaddexp(total, jax.nn.logsumexp(log_weights, axis=1)), None

        start = jnp.full(len(image), -jnp.inf)
        total, _ = lax.scan(add, start, jnp.arange(self.samples // self.chunk))
        estimate = total - math.log(self.samples)
        return estimate if mutable is False else (estimate, {})


def _likelihood(model: Any) -> Any:
    return model.likelihood


def _mean(totals: Totals, name: str) -> float:
    return float(totals[name] / totals["count"])


def _bits_per_dim(nll: float, split: Any, target: str) -> float:
    """In bits per value; a size, not a sum over images, which could exceed 32 bits."""
    shape = jax.eval_shape(split.preprocess, split.example(1))[target].shape
    return nll / math.prod(shape) / math.log(2)
