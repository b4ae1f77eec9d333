"""Contrastive learning of pairs with in-batch negatives (InfoNCE, CLIP)."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.losses import cross_entropy
from jaxmodels.objectives.objective import Objective
from jaxmodels.terms import Term
from jaxmodels.typing import Array, Batch, Model, field_names


def contrastive(model: Model, inputs: str | Sequence[str], temperature: float = 0.07) -> Objective:
    """Symmetric cross-entropy over the similarities of all pairs of a batch, in nats.

    The model returns two embeddings (B, D) of each example, such as of an image and of its caption;
    they are normalised, and those of one example must be nearer than those of different ones: van
    den Oord et al. 2018, "Representation learning with contrastive predictive coding"; Radford et
    al. 2021, "Learning transferable visual models from natural language supervision", figure 3.
    """
    if not 0 < temperature < float("inf"):
        raise UserError(f"A temperature is a number above 0; got {temperature}.")

    def score(
        embeddings: tuple[Float[Array, "B D"], Float[Array, "B D"]], batch: Batch
    ) -> Mapping[str, Term]:
        one, other = (_normalised(x) for x in embeddings)
        logits = one @ other.T / temperature
        own = jnp.arange(len(logits))
        losses = 0.5 * (cross_entropy(logits, own) + cross_entropy(logits.T, own))
        hits = jnp.argmax(logits, axis=-1) == own
        return {"cross_entropy": Term(losses), "error": Term(~hits, coefficient=0.0)}

    coupled = "its negatives are the other rows of the batch"
    return Objective(model, field_names(inputs), score, coupled=coupled)


def _normalised(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    x = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.maximum(norm, 1e-12)
