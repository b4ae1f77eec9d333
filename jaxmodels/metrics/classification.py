"""Classification, judged."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmodels.errors import UserError
from jaxmodels.inputs import image_input
from jaxmodels.metrics.evaluation import Evaluation, Figures, Totals, count
from jaxmodels.typing import Array, Batch, Model

ECE_BINS = 15
"""As in Guo et al., 2017."""


def classification(
    model: Model,
    split: Any,
    top: Sequence[int] = (5,),
    inputs: Callable[[Batch], tuple] = image_input,
) -> Evaluation:
    """Judge a classifier, whose outputs are logits (B, K), by "label" (B,).

    Figures: `accuracy`; `error` = 1 - accuracy; `cross_entropy` in nats per example; `top{k}`, the
    share of examples whose label is among the k largest logits (equal logits: the lower class
    first; a k of K or more always hits and is left out); `ece`, the expected calibration error;
    `confusion` (K, K), counts, a row for each true class.

    Raises `UserError` when outputs have another number of classes than the split.
    """
    if min(top, default=1) < 1:
        raise UserError(f"top takes numbers from 1 up, got {tuple(top)}.")

    def statistics(logits: Array, batch: Batch) -> dict[str, Array]:
        _check_classes(logits, split)
        return classification_sums(logits, batch["label"], batch["mask"])

    def summary(totals: Totals) -> Figures:
        return classification_figures(totals, top)

    return Evaluation(model, split, inputs, statistics, summary)


def classification_sums(
    logits: Float[Array, "B K"], label: Int[Array, "B"], mask: Bool[Array, "B"]
) -> dict[str, Array]:
    """Sum up one batch for `classification_figures`."""
    K = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jnp.take_along_axis(log_p, label[:, None], axis=-1)
    rank = _rank(log_p, label)
    prediction = log_p.argmax(axis=-1)
    # Compared, not computed: confidence * bins would round across the edges.
    edges = jnp.arange(1, ECE_BINS, dtype=jnp.float32)[None] / ECE_BINS
    confidence = jnp.exp(log_p.max(axis=-1))
    bins = (confidence[:, None] > edges).sum(axis=-1)
    member = (bins[:, None] == jnp.arange(ECE_BINS)[None]) & mask[:, None]
    return {
        "count": count(mask),
        "cross_entropy": -jnp.where(mask, own[:, 0], 0.0).sum(),
        "ranks": count((rank[:, None] == jnp.arange(K)[None]) & mask[:, None]),
        "confusion": jnp.zeros((K, K), jnp.int32).at[label, prediction].add(mask.astype(jnp.int32)),
        "bin_count": count(member),
        "bin_correct": count(member & (rank == 0)[:, None]),
        "bin_confidence": jnp.where(member, confidence[:, None], 0.0).sum(axis=0),
    }


def classification_figures(totals: Totals, top: Sequence[int] = (5,)) -> Figures:
    """Turn totals of `classification_sums` into figures.

    The expected calibration error is the sum over bins of |correct - confidence| / examples: Guo
    et al., 2017, "On calibration of modern neural networks", equation 3, with 15 bins of equal
    width, closed above.
    """
    examples, ranks = int(totals["count"]), np.asarray(totals["ranks"])
    gap = np.abs(np.asarray(totals["bin_correct"]) - np.asarray(totals["bin_confidence"]))
    return {
        "accuracy": float(ranks[0] / examples),
        "error": float((examples - ranks[0]) / examples),
        "cross_entropy": float(totals["cross_entropy"] / examples),
        **{f"top{k}": float(ranks[:k].sum() / examples) for k in top if k < len(ranks)},
        "ece": float(gap.sum() / examples),
        "confusion": np.asarray(totals["confusion"]),
    }


def _rank(scores: Float[Array, "B K"], label: Int[Array, "B"]) -> Int[Array, "B"]:
    """Count the classes before the label when sorted by score; NaN counts against the label."""
    own = jnp.take_along_axis(scores, label[:, None], axis=-1)
    lower = jnp.arange(scores.shape[-1])[None] < label[:, None]
    return (~(scores <= own) | ((scores == own) & lower)).sum(axis=-1)


def _check_classes(logits: Array, split: Any) -> None:
    if logits.ndim != 2 or logits.shape[-1] != split.num_classes:
        raise UserError(
            f"The model's outputs have shape {logits.shape}, {split.name} has "
            f"{split.num_classes} classes: expected (B, {split.num_classes}). "
            "Build the model with `num_classes` of the dataset that it is judged on."
        )
