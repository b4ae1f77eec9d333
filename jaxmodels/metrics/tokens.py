"""Metrics of sequences of tokens: cross-entropy, perplexity, accuracy."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxmodels.adapters import Stateful, with_arguments
from jaxmodels.errors import UserError
from jaxmodels.losses import token_scores
from jaxmodels.metric import Metric
from jaxmodels.metrics.evaluation import Evaluation, Metrics, Totals, count_true
from jaxmodels.special_tokens import split_target
from jaxmodels.typing import Array, Batch, Model, batch_field, batch_fields, field_names


def token_classification(
    model: Model,
    split: Any,
    inputs: str | Sequence[str] = ("tokens",),
    target: str = "targets",
    valid: str = "valid?",
    unit: str = "token",
    batch_size: int = 64,
) -> Evaluation:
    """Evaluate logits (B, T, K) against classes (B, T), of which those that are `valid` count.

    Metrics: `cross_entropy` in nats per token, `perplexity`, `bits_per_{unit}`, `accuracy` (the
    share of tokens to whose class the model gave the largest logit). Fields are those of
    `objectives.token_classification`.
    """

    def statistics(logits: Float[Array, "B T K"], batch: Batch) -> dict[str, Array]:
        return token_sums(
            *token_scores(logits, batch_field(batch, target)), _counted(batch, target, valid)
        )

    return _evaluation(model, split, inputs, statistics, unit, batch_size)


def next_token(model: Model, split: Any, unit: str = "token", batch_size: int = 64) -> Evaluation:
    """Evaluate a language model; see `token_classification` and `objectives.next_token`."""
    inputs = "tokens", "segments?"
    return token_classification(model, split, inputs, unit=unit, batch_size=batch_size)


def next_token_in_chunks(
    model: Model, split: Any, unit: str = "token", batch_size: int = 64
) -> Evaluation:
    """`next_token` of a model with a method `token_scores(tokens, targets)`, as `CausalLM` has.

    Its logits never stand in memory together, which a large vocabulary asks for.
    """

    def statistics(scores: tuple[Array, Array], batch: Batch) -> dict[str, Array]:
        return token_sums(*scores, _counted(batch, "targets", "valid?"))

    inputs = "tokens", "targets", "segments?"
    scoring = with_arguments(model, method="token_scores")
    return _evaluation(scoring, split, inputs, statistics, unit, batch_size)


def consecutive(model: Model, stream: Any, unit: str = "token") -> Evaluation:
    """`next_token` over a whole text, the model's recurrent state going from batch to batch.

    `stream` is a text in consecutive windows, as made by `data.text.evaluation_stream`.
    """
    evaluation = next_token(Stateful(model), stream, unit, stream.rows)
    return dataclasses.replace(evaluation, inputs=("tokens", "first"), stateful=True)


def seq2seq(model: Model, split: Any, batch_size: int = 64) -> Evaluation:
    """Evaluate a translator by each token of `target` (B, T + 1) but the first; padding is not.

    Metrics are those of `token_classification`.
    """
    inputs = "source", "decoder_tokens"
    evaluation = token_classification(model, split, inputs, batch_size=batch_size)
    return dataclasses.replace(evaluation, prepare=split_target)


def token_sums(
    losses: Float[Array, "B T"], hits: Bool[Array, "B T"], valid: Bool[Array, "B T"]
) -> dict[str, Array]:
    """Sum up one batch for `token_metrics`."""
    return {
        "count": count_true(valid.reshape(-1)),
        "cross_entropy": jnp.sum(jnp.where(valid, losses, 0.0)),
        "hits": count_true((hits & valid).reshape(-1)),
    }


def token_metrics(unit: str) -> Callable[[Totals], Metrics]:
    """Make the function from totals of `token_sums` to metrics."""

    def metrics(totals: Totals) -> Metrics:
        nats = float(totals["cross_entropy"] / totals["count"])
        return {
            "cross_entropy": nats,
            "perplexity": math.exp(min(nats, 700.0)),
            f"bits_per_{unit}": nats / math.log(2),
            "accuracy": float(totals["hits"] / totals["count"]),
        }

    return metrics


def _evaluation(
    model: Model,
    split: Any,
    inputs: str | Sequence[str],
    statistics: Callable[[Any, Batch], dict[str, Array]],
    unit: str,
    batch_size: int,
) -> Evaluation:
    types = {
        "cross_entropy": Metric("nats", higher_is_better=False),
        "perplexity": Metric("", higher_is_better=False),
        f"bits_per_{unit}": Metric("bits", higher_is_better=False),
        "accuracy": Metric("%", higher_is_better=True),
    }
    summary = token_metrics(unit)
    return Evaluation(
        model, split, field_names(inputs), statistics, summary, types, batch_size=batch_size
    )


def _counted(batch: Batch, target: str, valid: str) -> Bool[Array, "B T"]:
    flags = batch_fields(batch, (valid,))
    shape = batch_field(batch, target).shape
    if flags and flags[0].shape != shape:
        raise UserError(
            f"{valid.removesuffix('?')!r} has shape {flags[0].shape}, the targets {shape}; "
            "expected a flag for each target"
        )
    counted = flags[0] > 0 if flags else jnp.ones(shape, bool)
    return counted & batch["mask"][:, None]
