"""Metrics of regression: mean squared error and the coefficient of determination."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxmodels.losses import like_outputs
from jaxmodels.metric import Metric
from jaxmodels.metrics.evaluation import Evaluation, Metrics, Totals, count_true
from jaxmodels.typing import Array, Batch, Model, batch_field, field_names

TYPES = {"mse": Metric("", higher_is_better=False), "r2": Metric("", higher_is_better=True)}


def regression(
    model: Model, split: Any, inputs: Sequence[str] = ("x",), target: str = "y"
) -> Evaluation:
    """Evaluate a regressor whose outputs are (B,) or (B, ...), as many numbers as the targets.

    Metrics: `mse`, the mean squared error; `r2`, the coefficient of determination
    1 - sum((y - f) ** 2) / sum((y - mean(y)) ** 2). Both are means over the outputs. Where all y
    are equal, r2 is 1 for exact outputs and 0 otherwise (scikit-learn's convention).
    """
    # The spread of y comes from sums of y and y ** 2, which cancel when y is far from zero; moved
    # by one of the values they do not.
    first = split.read(np.array([0]))

    def statistics(outputs: Array, batch: Batch) -> dict[str, Array]:
        origin = _columns(jnp.asarray(split.preprocess(first)[target]))
        y = like_outputs(outputs, batch_field(batch, target), target)
        return regression_sums(_columns(outputs), _columns(y), origin, batch["mask"])

    return Evaluation(model, split, field_names(inputs), statistics, regression_metrics, TYPES)


def regression_sums(
    outputs: Float[Array, "B D"],
    y: Float[Array, "B D"],
    origin: Float[Array, "1 D"],
    mask: Bool[Array, " B"],
) -> dict[str, Array]:
    """Sum up one batch for `regression_metrics`; `origin` is any value near the targets."""
    y = y.astype(jnp.float32)
    kept = mask[:, None]
    error = jnp.where(kept, y - outputs.astype(jnp.float32), 0.0)
    moved = jnp.where(kept, y - origin.astype(jnp.float32), 0.0)
    return {
        "count": count_true(mask),
        "squared_error": jnp.square(error).sum(axis=0),
        "moved": moved.sum(axis=0),
        "moved_squared": jnp.square(moved).sum(axis=0),
    }


def regression_metrics(totals: Totals) -> Metrics:
    """Turn totals of `regression_sums` into metrics."""
    examples = int(totals["count"])
    error, moved = np.asarray(totals["squared_error"]), np.asarray(totals["moved"])
    spread = np.asarray(totals["moved_squared"]) - moved**2 / examples
    constant = spread <= 0
    r2 = 1.0 - error / np.where(constant, 1.0, spread)
    r2 = np.where(constant, np.where(error == 0, 1.0, 0.0), r2)
    return {"mse": float((error / examples).mean()), "r2": float(r2.mean())}


def _columns(values: Array) -> Array:
    return values.reshape(values.shape[0], -1)
