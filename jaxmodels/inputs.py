"""What models read of a batch: objectives, figures and pages pick the same."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool

from jaxmodels.typing import Array, Batch


def image_input(batch: Batch) -> tuple[Any, ...]:
    """Pick "image"."""
    return (batch["image"],)


def x_input(batch: Batch) -> tuple[Any, ...]:
    """Pick "x"."""
    return (batch["x"],)


def token_inputs(batch: Batch) -> tuple[Any, ...]:
    """Pick "tokens", and "segments" where the rows are packed."""
    return tuple(batch[name] for name in ("tokens", "segments") if name in batch)


def scored_inputs(batch: Batch) -> tuple[Any, ...]:
    """Pick "tokens", "targets", and "segments" where the rows are packed."""
    tokens, *segments = token_inputs(batch)
    return tokens, batch["targets"], *segments


def carried_inputs(batch: Batch) -> tuple[Any, ...]:
    """Pick "tokens", and "first", true where a row begins anew: what `carry.Carried` reads."""
    return batch["tokens"], batch["first"]


def pair_inputs(batch: Batch) -> tuple[Any, ...]:
    """Pick "source", and "target" without its last token."""
    return batch["source"], batch["target"][:, :-1]


def valid_targets(batch: Batch) -> Bool[Array, "B T"]:
    """Which of "targets" count: those that "valid" says, all without it."""
    return batch.get("valid", jnp.ones(batch["targets"].shape, bool))
