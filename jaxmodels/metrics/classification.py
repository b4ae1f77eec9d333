"""Metrics of classification: accuracy, top-k, cross-entropy, calibration, confusion matrix."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxmodels.errors import UserError
from jaxmodels.losses import cross_entropy, target_classes
from jaxmodels.metric import Metric
from jaxmodels.metrics.evaluation import Evaluation, Metrics, Totals, count_true, masked_sum
from jaxmodels.typing import Array, Batch, Model, batch_field, field_names

ECE_BINS = 15
"""As in Guo et al., 2017."""

SHARE = Metric("%", higher_is_better=True, of_examples=True)


def classification(
    model: Model,
    split: Any,
    inputs: str | Sequence[str] = ("image",),
    target: str = "label",
    top: Sequence[int] = (5,),
    confusion: bool = False,
) -> Evaluation:
    """Evaluate a classifier whose outputs are logits (B, K).

    Metrics: `accuracy`; `error` = 1 - accuracy; `cross_entropy` in nats per example; `top{k}`, the
    share of examples whose class is among the k largest logits (equal logits: the lower class
    first; a k of K or more always hits and is left out); `ece`, the expected calibration error;
    with `confusion`, `confusion` (K, K), counts, a row for each true class: K * K numbers.

    Args:
        model: computes logits from the fields `inputs`.
        split: the examples.
        inputs: names of batch fields.
        target: the field of classes, integers (B,), or of soft targets (B, K), whose likeliest
            class counts as the true one.
        top: which k.
        confusion: whether to count the confusion matrix.

    Raises `UserError` when outputs have another number of classes than the split.
    """
    if min(top, default=1) < 1:
        raise UserError(f"top takes numbers from 1 up, got {tuple(top)}.")

    def statistics(logits: Array, batch: Batch) -> dict[str, Array]:
        _check_classes(logits, split)
        return classification_sums(logits, batch_field(batch, target), batch["mask"], confusion)

    def summary(totals: Totals) -> Metrics:
        return classification_metrics(totals, top)

    return Evaluation(model, split, field_names(inputs), statistics, summary, metric_types(top))


def metric_types(top: Sequence[int] = (5,)) -> dict[str, Metric]:
    """Units and directions of `classification_metrics`."""
    return {
        "accuracy": SHARE,
        "error": dataclasses.replace(SHARE, higher_is_better=False),
        "cross_entropy": Metric("nats", higher_is_better=False),
        **{f"top{k}": SHARE for k in top},
        "ece": Metric("%", higher_is_better=False),
    }


def classification_sums(
    logits: Float[Array, "B K"], targets: Array, mask: Bool[Array, " B"], confusion: bool = False
) -> dict[str, Array]:
    """Sum up one batch for `classification_metrics`."""
    K = logits.shape[-1]
    loss = cross_entropy(logits, targets)
    label = target_classes(logits, targets).astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    rank = _rank(log_p, label)
    # Compared, not computed: confidence * bins would round across the edges.
    edges = jnp.arange(1, ECE_BINS, dtype=jnp.float32)[None] / ECE_BINS
    confidence = jnp.exp(log_p.max(axis=-1))
    bins = (confidence[:, None] > edges).sum(axis=-1)
    member = (bins[:, None] == jnp.arange(ECE_BINS)[None]) & mask[:, None]
    sums = {
        "count": count_true(mask),
        "cross_entropy": masked_sum(loss, mask),
        "ranks": count_true((rank[:, None] == jnp.arange(K)[None]) & mask[:, None]),
        "bin_count": count_true(member),
        "bin_correct": count_true(member & (rank == 0)[:, None]),
        "bin_confidence": jnp.where(member, confidence[:, None], 0.0).sum(axis=0),
    }
    if confusion:
        row = jnp.where(label < 0, K, label)  # a label that is no class has no row
        places = jnp.zeros((K, K), jnp.int32).at[row, log_p.argmax(axis=-1)]
        sums["confusion"] = places.add(mask.astype(jnp.int32), mode="drop")
    return sums


def classification_metrics(totals: Totals, top: Sequence[int] = (5,)) -> Metrics:
    """Turn totals of `classification_sums` into metrics.

    The expected calibration error is the sum over bins of |correct - confidence| / examples: Guo
    et al., 2017, "On calibration of modern neural networks", equation 3, with 15 bins of equal
    width, closed above.
    """
    examples, ranks = int(totals["count"]), np.asarray(totals["ranks"])
    gap = np.abs(np.asarray(totals["bin_correct"]) - np.asarray(totals["bin_confidence"]))
    counted: Mapping[str, Any] = (
        {"confusion": np.asarray(totals["confusion"])} if "confusion" in totals else {}
    )
    return {
        "accuracy": float(ranks[0] / examples),
        "error": float((examples - ranks[0]) / examples),
        "cross_entropy": float(totals["cross_entropy"] / examples),
        **{f"top{k}": float(ranks[:k].sum() / examples) for k in top if k < len(ranks)},
        "ece": float(gap.sum() / examples),
        **counted,
    }


def _rank(scores: Float[Array, "B K"], label: Array) -> Array:
    """Count the classes before the label when sorted by score.

    NaN counts against the label, and all classes are before a label that is none.
    """
    is_class = (label >= 0) & (label < scores.shape[-1])
    own = jnp.take_along_axis(scores, label[:, None], axis=-1)
    own = jnp.where(is_class[:, None], own, jnp.nan)
    lower = jnp.arange(scores.shape[-1])[None] < label[:, None]
    return (~(scores <= own) | ((scores == own) & lower)).sum(axis=-1)


def _check_classes(logits: Array, split: Any) -> None:
    classes = getattr(split, "num_classes", None)
    if logits.ndim != 2 or (classes is not None and logits.shape[-1] != classes):
        raise UserError(
            f"The model's outputs have shape {logits.shape}, {split.name} has {classes} classes: "
            f"expected (B, {classes or 'K'}). Build the model with `num_classes` of the dataset."
        )
