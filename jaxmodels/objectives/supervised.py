"""Classification and regression."""

import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.inputs import image_input, x_input
from jaxmodels.losses import cross_entropy
from jaxmodels.objectives.objective import Objective
from jaxmodels.typing import Array, Batch, Model, Scalars


def classification(model: Model, label_smoothing: float = 0.0) -> Objective:
    """Softmax cross-entropy in nats of logits (B, K) for `image` (B, H, W, C), `label` (B,).

    For smoothing see `losses.cross_entropy`.
    """

    def score(logits: Float[Array, "B K"], batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        loss = cross_entropy(logits, batch["label"], label_smoothing)
        return loss, {"error": jnp.argmax(logits, axis=-1) != batch["label"]}

    return Objective(model, image_input, score)


def regression(model: Model) -> Objective:
    """Squared error, mean over the outputs, of `x` (B, D) against `y` (B,) or (B, outputs)."""

    def score(outputs: Array, batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        error = outputs.astype(jnp.float32) - batch["y"].reshape(outputs.shape)
        return jnp.mean(jnp.square(error), axis=range(1, error.ndim)), {}

    return Objective(model, x_input, score)
