"""What papers report, exact: sums over every example of a split, with padding masked out.

An `Evaluation` says how to judge a model on a split. Its `statistics` are sums over one batch (a
pure function on the device), which whoever drives it adds up on the host in float64 and int64,
and its `summary` turns the totals into figures. Nothing is averaged over batches, so the figures
depend neither on the batch size nor on how many devices or hosts computed them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmodels.typing import Array, Batch, Model, UserError

ECE_BINS = 15
"""As in Guo et al., 2017."""

Totals = Mapping[str, Any]
Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How to judge a model on a split.

    Attributes:
        model: computes outputs from `inputs(batch)`.
        split: the examples.
        inputs: picks the model's arguments from a batch.
        statistics: of outputs and a batch with "mask" (B,), sums by name: counts are int32 (exact
            up to 2 ** 31 a batch), other sums float32.
        summary: figures from the totals of `statistics` over all batches (float64, int64).
        batch_size: how many examples at a time; changes no figure.
    """

    model: Model
    split: Any
    inputs: Callable[[Batch], tuple]
    statistics: Callable[[Array, Batch], dict[str, Array]]
    summary: Callable[[Totals], Figures]
    batch_size: int = 500


def image_input(batch: Batch) -> tuple:
    """Pick "image"."""
    return (batch["image"],)


def x_input(batch: Batch) -> tuple:
    """Pick "x"."""
    return (batch["x"],)


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


def regression(model: Model, split: Any, inputs: Callable[[Batch], tuple] = x_input) -> Evaluation:
    """Judge a regressor, whose outputs are (B,) or (B, D), by "y" of as many values.

    Figures: `mse`, the mean squared error; `r2`, the coefficient of determination
    1 - sum((y - f) ** 2) / sum((y - mean(y)) ** 2). Both are means over D. Where all y are equal,
    r2 is 1 for exact outputs and 0 otherwise (scikit-learn's convention).
    """
    # The spread of y comes from sums of y and y ** 2, which cancel when y is far from zero; moved
    # by one of the values they do not.
    first = split.read(np.array([0]))

    def statistics(outputs: Array, batch: Batch) -> dict[str, Array]:
        origin = _columns(jnp.asarray(split.preprocess(first)["y"]))
        y = _columns(batch["y"])
        if outputs.size != y.size:
            raise UserError(
                f"The model's outputs have shape {outputs.shape}, the targets of "
                f"{split.name} {batch['y'].shape}; they must hold as many values."
            )
        return regression_sums(_columns(outputs), y, origin, batch["mask"])

    return Evaluation(model, split, inputs, statistics, regression_figures)


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
        "count": _count(mask),
        "cross_entropy": -jnp.where(mask, own[:, 0], 0.0).sum(),
        "ranks": _count((rank[:, None] == jnp.arange(K)[None]) & mask[:, None]),
        "confusion": jnp.zeros((K, K), jnp.int32).at[label, prediction].add(mask.astype(jnp.int32)),
        "bin_count": _count(member),
        "bin_correct": _count(member & (rank == 0)[:, None]),
        "bin_confidence": jnp.where(member, confidence[:, None], 0.0).sum(axis=0),
    }


def classification_figures(totals: Totals, top: Sequence[int] = (5,)) -> Figures:
    """Turn totals of `classification_sums` into figures.

    The expected calibration error is the sum over bins of |correct - confidence| / examples: Guo
    et al., 2017, "On calibration of modern neural networks", equation 3, with 15 bins of equal
    width, closed above.
    """
    count, ranks = int(totals["count"]), np.asarray(totals["ranks"])
    gap = np.abs(np.asarray(totals["bin_correct"]) - np.asarray(totals["bin_confidence"]))
    return {
        "accuracy": float(ranks[0] / count),
        "error": float((count - ranks[0]) / count),
        "cross_entropy": float(totals["cross_entropy"] / count),
        **{f"top{k}": float(ranks[:k].sum() / count) for k in top if k < len(ranks)},
        "ece": float(gap.sum() / count),
        "confusion": np.asarray(totals["confusion"]),
    }


def regression_sums(
    outputs: Float[Array, "B D"],
    y: Float[Array, "B D"],
    origin: Float[Array, "1 D"],
    mask: Bool[Array, "B"],
) -> dict[str, Array]:
    """Sum up one batch for `regression_figures`; `origin` is any value near the targets."""
    y = y.astype(jnp.float32)
    kept = mask[:, None]
    error = jnp.where(kept, y - outputs.astype(jnp.float32), 0.0)
    moved = jnp.where(kept, y - origin.astype(jnp.float32), 0.0)
    return {
        "count": _count(mask),
        "squared_error": jnp.square(error).sum(axis=0),
        "moved": moved.sum(axis=0),
        "moved_squared": jnp.square(moved).sum(axis=0),
    }


def regression_figures(totals: Totals) -> Figures:
    """Turn totals of `regression_sums` into figures."""
    count = int(totals["count"])
    error, moved = np.asarray(totals["squared_error"]), np.asarray(totals["moved"])
    spread = np.asarray(totals["moved_squared"]) - moved**2 / count
    constant = spread <= 0
    r2 = 1.0 - error / np.where(constant, 1.0, spread)
    r2 = np.where(constant, np.where(error == 0, 1.0, 0.0), r2)
    return {"mse": float((error / count).mean()), "r2": float(r2.mean())}


def _count(flags: Array) -> Array:
    return flags.sum(axis=0, dtype=jnp.int32)


def _columns(values: Array) -> Array:
    return values.reshape(values.shape[0], -1)


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
