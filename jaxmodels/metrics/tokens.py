"""Models of sequences, judged by every token."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxmodels.adapters.method import Method
from jaxmodels.adapters.state import Carried
from jaxmodels.inputs import carried_inputs, pair_inputs, scored_inputs, token_inputs, valid_targets
from jaxmodels.losses import judged
from jaxmodels.metrics.evaluation import Evaluation, Figures, Totals, count
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import Array, Batch, Model


def next_token(model: Model, split: Any, unit: str = "token", batch_size: int = 64) -> Evaluation:
    """Judge logits (B, T, V) by `targets` (B, T), of which `valid` (B, T) count.

    Figures: `cross_entropy` in nats per token, `perplexity`, `bits_per_{unit}`, `accuracy` (the
    share of tokens to which the model gave the largest logit).
    """

    def statistics(logits: Float[Array, "B T V"], batch: Batch) -> dict[str, Array]:
        return token_sums(*judged(logits, batch["targets"]), _counted(batch))

    return Evaluation(model, split, token_inputs, statistics, token_figures(unit), batch_size)


def next_token_in_chunks(
    model: Model, split: Any, unit: str = "token", batch_size: int = 64
) -> Evaluation:
    """`next_token` of a model with a method `token_scores(tokens, targets)`.

    Its logits never stand in memory together, which a large vocabulary asks for.
    """

    def statistics(found: tuple[Array, Array], batch: Batch) -> dict[str, Array]:
        return token_sums(*found, _counted(batch))

    asked = Method(model, "token_scores")
    return Evaluation(asked, split, scored_inputs, statistics, token_figures(unit), batch_size)


def consecutive(model: Model, stream: Any, unit: str = "token") -> Evaluation:
    """`next_token` over a whole text, the model's carry going from batch to batch.

    `stream` is a text in consecutive windows, as made by `data.text.consecutive`.
    """
    judged = next_token(Carried(model), stream, unit, stream.rows)
    return dataclasses.replace(judged, inputs=carried_inputs, carried=True)


def seq2seq(model: Model, split: Any, batch_size: int = 64) -> Evaluation:
    """Judge a translator's logits by each token of `target` (B, T + 1) but the first.

    The figures are those of `next_token`; padding does not count.
    """

    def statistics(logits: Float[Array, "B T V"], batch: Batch) -> dict[str, Array]:
        targets = batch["target"][:, 1:]
        return token_sums(*judged(logits, targets), (targets != PAD) & batch["mask"][:, None])

    return Evaluation(model, split, pair_inputs, statistics, token_figures("token"), batch_size)


def token_sums(
    losses: Float[Array, "B T"], hits: Bool[Array, "B T"], valid: Bool[Array, "B T"]
) -> dict[str, Array]:
    """Sum up one batch for `token_figures`."""
    return {
        "count": count(valid.reshape(-1)),
        "cross_entropy": jnp.sum(jnp.where(valid, losses, 0.0)),
        "hits": count((hits & valid).reshape(-1)),
    }


def token_figures(unit: str) -> Callable[[Totals], Figures]:
    """Make the function from totals of `token_sums` to figures."""

    def figures(totals: Totals) -> Figures:
        nats = float(totals["cross_entropy"] / totals["count"])
        return {
            "cross_entropy": nats,
            "perplexity": math.exp(min(nats, 700.0)),
            f"bits_per_{unit}": nats / math.log(2),
            "accuracy": float(totals["hits"] / totals["count"]),
        }

    return figures


def _counted(batch: Batch) -> Bool[Array, "B T"]:
    return valid_targets(batch) & batch["mask"][:, None]
