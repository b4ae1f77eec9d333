"""Objectives of sequences of tokens: cross-entropies in nats, means over all tokens that count."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxmodels.carry import Carried
from jaxmodels.inputs import carried_inputs, pair_inputs, token_inputs, valid_targets
from jaxmodels.losses import cross_entropy
from jaxmodels.objectives.objective import Objective
from jaxmodels.tokens import PAD
from jaxmodels.typing import Array, Batch, Model, Scalars


def next_token(model: Model) -> Objective:
    """Cross-entropy of `targets` (B, T), of which `valid` (B, T) count, given `tokens` (B, T).

    The model's outputs are logits (B, T, V). Rows of packed documents have `segments` (B, T),
    which the model is given too.
    """
    return Objective(model, token_inputs, _next_token_score)


def truncated(model: Model) -> Objective:
    """`next_token` of consecutive batches, the model's carry going from one to the next.

    Back-propagation ends at a batch's first token; rows begin anew where `first` (B,) is true.
    """
    return Objective(Carried(model), carried_inputs, _next_token_score)


def next_token_in_chunks(model: Model) -> Objective:
    """`next_token` of a model with a method `losses(tokens, targets)`.

    Its logits never stand in memory together, which a large vocabulary asks for.
    """

    def inputs(batch: Batch) -> tuple[Any, ...]:
        tokens, *segments = token_inputs(batch)
        return tokens, batch["targets"], *segments

    def score(losses: Array, batch: Batch) -> tuple[Array, Scalars]:
        return mean_over_tokens(losses, valid_targets(batch)), {}

    return Objective(_Losses(model), inputs, score)


def seq2seq(model: Model, label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy of each token of `target` (B, T + 1) but the first, given what came before.

    And given `source` (B, S). Padding does not count. With smoothing, the scalar `cross_entropy`
    is that without.
    """

    def score(logits: Float[Array, "B T V"], batch: Batch) -> tuple[Array, Scalars]:
        targets = batch["target"][:, 1:]
        valid = targets != PAD
        plain = mean_over_tokens(cross_entropy(logits, targets), valid)
        if not label_smoothing:
            return plain, {}
        smoothed = cross_entropy(logits, targets, label_smoothing)
        return mean_over_tokens(smoothed, valid), {"cross_entropy": plain}

    return Objective(model, pair_inputs, score)


def mean_over_tokens(losses: Float[Array, "B T"], valid: Bool[Array, "B T"]) -> Float[Array, " B"]:
    """Values whose mean over B is the mean of the losses that count, however long the rows are."""
    share = losses.shape[0] / jnp.maximum(jnp.sum(valid), 1)
    return jnp.sum(jnp.where(valid, losses, 0.0), axis=1) * share


def _next_token_score(logits: Float[Array, "B T V"], batch: Batch) -> tuple[Array, Scalars]:
    return mean_over_tokens(cross_entropy(logits, batch["targets"]), valid_targets(batch)), {}


@dataclasses.dataclass(frozen=True)
class _Losses:
    """A model whose outputs are what its method `losses` returns."""

    model: Model

    def init(self, rngs: Any, *inputs: Any) -> Any:
        return self.model.init(rngs, *inputs, method="losses")

    def apply(self, variables: Any, *inputs: Any, **kwargs: Any) -> Any:
        return self.model.apply(variables, *inputs, method="losses", **kwargs)
