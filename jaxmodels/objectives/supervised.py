"""Classification and regression."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.objectives.objective import Objective
from jaxmodels.typing import Array, Batch, Model, Scalars


def classification(model: Model, label_smoothing: float = 0.0) -> Objective:
    """Softmax cross-entropy in nats of logits (B, K) for `image` (B, H, W, C), `label` (B,).

    With smoothing a the target is (1 - a) one_hot + a / K (Szegedy et al. 2016, "Rethinking the
    Inception architecture", section 7).
    """

    def score(logits: Float[Array, "B K"], batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        picked = jnp.take_along_axis(log_p, batch["label"][:, None], axis=-1)[:, 0]
        smoothed = (1 - label_smoothing) * picked + label_smoothing * jnp.mean(log_p, axis=-1)
        return -smoothed, {"error": jnp.argmax(logits, axis=-1) != batch["label"]}

    return Objective(model, lambda batch: (batch["image"],), score)


def regression(model: Model) -> Objective:
    """Squared error, mean over the outputs, of `x` (B, D) against `y` (B,) or (B, outputs)."""

    def score(outputs: Array, batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        error = outputs.astype(jnp.float32) - batch["y"].reshape(outputs.shape)
        return jnp.mean(jnp.square(error), axis=range(1, error.ndim)), {}

    return Objective(model, lambda batch: (batch["x"],), score)
