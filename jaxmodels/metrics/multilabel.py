"""Metrics of multi-label classification: F1, AUROC, mean average precision."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.losses import binary_cross_entropy, check_same_shape
from jaxmodels.metric import Metric
from jaxmodels.metrics.evaluation import Evaluation, Metrics, Totals
from jaxmodels.metrics.reductions import Rows
from jaxmodels.typing import Array, Batch, Model, batch_field, field_names

HIGHER = Metric("%", higher_is_better=True)
TYPES = {
    "exact_match": Metric("%", higher_is_better=True, of_examples=True),
    "f1_micro": HIGHER,
    "f1_macro": HIGHER,
    "auroc": HIGHER,
    "mean_average_precision": HIGHER,
    "cross_entropy": Metric("nats", higher_is_better=False),
}


def multilabel_classification(
    model: Model,
    split: Any,
    inputs: str | Sequence[str] = ("image",),
    target: str = "label",
    threshold: float = 0.5,
) -> Evaluation:
    """Evaluate a multi-label classifier whose outputs are logits (B, K), targets (B, K) of 0 and 1.

    A class is predicted where its probability is at least `threshold`. Metrics: `exact_match`, the
    share of examples all of whose classes are right; `f1_micro` and `f1_macro` (0 for a class that
    is neither there nor predicted, as scikit-learn has it); `auroc` and `mean_average_precision`,
    means over the classes that have both kinds of examples; `cross_entropy`, mean over the classes.
    """

    def statistics(logits: Array, batch: Batch) -> dict[str, Array]:
        targets = batch_field(batch, target)
        check_same_shape(logits, targets, target)
        logits = logits.astype(jnp.float32)
        losses = binary_cross_entropy(logits, targets.astype(jnp.float32))
        return {"logits": logits, "targets": targets > 0.5, "losses": losses.mean(axis=-1)}

    def summary(rows: Totals) -> Metrics:
        scores = 1 / (1 + np.exp(-np.float64(rows["logits"])))
        predicted, true = scores >= threshold, rows["targets"]
        both = true.any(axis=0) & ~true.all(axis=0)
        columns = [(true[:, k], rows["logits"][:, k]) for k in np.flatnonzero(both)]
        return {
            "exact_match": float((predicted == true).all(axis=1).mean()),
            "f1_micro": float(_f1(predicted.ravel(), true.ravel())),
            "f1_macro": float(_f1(predicted, true).mean()),
            "auroc": _mean(auroc(*column) for column in columns),
            "mean_average_precision": _mean(average_precision(*column) for column in columns),
            "cross_entropy": float(rows["losses"].mean(dtype=np.float64)),
        }

    return Evaluation(model, split, field_names(inputs), statistics, summary, TYPES, Rows())


def auroc(true: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs (positive, negative) in the right order.

    Ties count half: Mann and Whitney's U.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = int(true.sum()), int((~true).sum())
    return (ranks[true].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(true: np.ndarray, scores: np.ndarray) -> float:
    """The mean over the positives of the precision at their score (scikit-learn's definition)."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(true[order])
    # Of equal scores only the last place is a threshold.
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _f1(predicted: np.ndarray, true: np.ndarray) -> Any:
    """2 tp / (2 tp + fp + fn), over the first axis."""
    total = predicted.sum(axis=0) + true.sum(axis=0)
    return 2 * (predicted & true).sum(axis=0) / np.maximum(total, 1)


def _mean(values: Any) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")
