"""Classification and regression of whole examples."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jaxmodels.losses import (
    binary_cross_entropy,
    check_label_smoothing,
    check_same_shape,
    cross_entropy,
    is_hit,
    like_outputs,
)
from jaxmodels.objectives.objective import Objective
from jaxmodels.terms import Term
from jaxmodels.typing import Array, Batch, Model, batch_field, field_names


def classification(
    model: Model,
    inputs: str | Sequence[str] = ("image",),
    target: str = "label",
    label_smoothing: float = 0.0,
) -> Objective:
    """Softmax cross-entropy in nats of logits (B, K).

    Args:
        model: computes logits from the fields `inputs`.
        inputs: names of batch fields.
        target: the field of classes, integers (B,), or of soft targets, distributions (B, K).
        label_smoothing: see `losses.cross_entropy`.
    """
    check_label_smoothing(label_smoothing)

    def score(logits: Array, batch: Batch) -> Mapping[str, Term]:
        targets = batch_field(batch, target)
        return {
            "cross_entropy": Term(cross_entropy(logits, targets, label_smoothing)),
            "error": Term(~is_hit(logits, targets), coefficient=0.0),
        }

    return Objective(model, field_names(inputs), score)


def multilabel_classification(
    model: Model, inputs: Sequence[str] = ("image",), target: str = "label"
) -> Objective:
    """Sigmoid cross-entropy in nats, mean over the K classes, of logits (B, K).

    The field `target` (B, K) holds 0 or 1, or probabilities, for each class.
    """

    def score(logits: Array, batch: Batch) -> Mapping[str, Term]:
        targets = batch_field(batch, target)
        check_same_shape(logits, targets, target)
        losses = binary_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))
        return {"cross_entropy": Term(jnp.mean(losses, axis=-1))}

    return Objective(model, field_names(inputs), score)


def regression(model: Model, inputs: Sequence[str] = ("x",), target: str = "y") -> Objective:
    """Squared error, mean over the outputs, against the field `target`.

    Outputs are (B, ...) and the target has their shape; (B,) also stands for (B, 1), either way.
    """

    def score(outputs: Array, batch: Batch) -> Mapping[str, Term]:
        y = like_outputs(outputs, batch_field(batch, target), target)
        error = outputs.astype(jnp.float32) - y.astype(jnp.float32)
        return {"squared_error": Term(jnp.mean(jnp.square(error), axis=range(1, error.ndim)))}

    return Objective(model, field_names(inputs), score)
