"""Cross-entropies in nats of logits, also where a vocabulary makes too many of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from jaxmodels.errors import UserError
from jaxmodels.kernels.binary_cross_entropy import binary_cross_entropy
from jaxmodels.typing import Array

__all__ = [
    "binary_cross_entropy",
    "check_label_smoothing",
    "check_same_shape",
    "cross_entropy",
    "flat",
    "in_chunks",
    "is_hit",
    "like_outputs",
    "target_classes",
    "token_scores",
]


def cross_entropy(
    logits: Float[Array, "*rows V"], targets: Shaped[Array, "..."], label_smoothing: float = 0.0
) -> Float[Array, "*rows"]:
    """-sum over classes of target * log softmax(logits), in float32, nats.

    Args:
        logits: (..., V).
        targets: classes (...), integers of any width; or distributions (..., V), floats.
        label_smoothing: with a, the target is (1 - a) target + a / V (Szegedy et al. 2016,
            "Rethinking the Inception architecture", section 7).

    A class is picked by comparison, not by index: the gradient of a gather is a scatter into zeros
    as large as the logits. One outside 0..V-1 costs NaN. `UserError` for targets of another shape.
    """
    check_label_smoothing(label_smoothing)
    soft = check_targets(logits, targets)
    logits = logits.astype(jnp.float32)
    V = logits.shape[-1]
    if soft:
        targets = targets.astype(jnp.float32)
        # Not targets * log_softmax: a class of probability 0 may have a logit of -inf.
        picked = jnp.sum(jnp.where(targets != 0, targets * logits, 0.0), axis=-1)
        mass, known = jnp.sum(targets, axis=-1), True
    else:
        # Widened first: 256 is 0 in 8 bits.
        targets = targets.astype(jnp.promote_types(targets.dtype, jnp.int32))
        classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
        picked = jnp.sum(jnp.where(classes == targets[..., None], logits, 0.0), axis=-1)
        mass, known = 1.0, (targets >= 0) & (targets < V)
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * jnp.sum(logits, axis=-1) / V
        mass = (1 - label_smoothing) * mass + label_smoothing
    return jnp.where(known, mass * jax.nn.logsumexp(logits, axis=-1) - picked, jnp.nan)


def token_scores(
    logits: Float[Array, "*rows V"], targets: Shaped[Array, "..."]
) -> tuple[Float[Array, "*rows"], Bool[Array, "*rows"]]:
    """`cross_entropy`, and whether the target has the largest logit."""
    return cross_entropy(logits, targets), is_hit(logits, targets)


def is_hit(logits: Float[Array, "*rows V"], targets: Shaped[Array, "..."]) -> Bool[Array, "*rows"]:
    """Whether the largest logit is the target's, or, of a distribution, its likeliest class's."""
    return jnp.argmax(logits, axis=-1) == target_classes(logits, targets)


def target_classes(
    logits: Float[Array, "*rows V"], targets: Shaped[Array, "..."]
) -> Shaped[Array, "*rows"]:
    """The targets as classes: of distributions the likeliest; `UserError` for other shapes."""
    return targets.argmax(axis=-1) if check_targets(logits, targets) else targets


def check_targets(logits: Array, targets: Array) -> bool:
    """Whether the targets are distributions (floats); `UserError` where their shape is neither."""
    soft = jnp.issubdtype(targets.dtype, jnp.floating)
    expected = logits.shape if soft else logits.shape[:-1]
    if targets.shape != expected:
        kind = "distributions over the classes" if soft else "classes"
        raise UserError(
            f"targets have shape {targets.shape} and dtype {targets.dtype}; for logits of shape "
            f"{logits.shape} {kind} of shape {expected} are expected"
            + (". Remove the last axis: `labels[..., 0]`." if targets.shape[-1:] == (1,) else ".")
        )
    return soft


def check_same_shape(outputs: Array, targets: Array, name: str) -> None:
    """Raise `UserError` unless the targets `name` have the outputs' shape: one for each class."""
    if targets.shape != outputs.shape:
        raise UserError(
            f"the model's outputs have shape {outputs.shape}, the targets {name!r} "
            f"{targets.shape}; expected the same shape"
        )


def like_outputs(outputs: Array, targets: Array, name: str) -> Array:
    """Targets in the shape of the outputs, where (B,) also stands for (B, 1), either way.

    Raises `UserError` for other shapes: they would be broadcast against each other.
    """
    B = outputs.shape[:1]
    if {outputs.shape, targets.shape} != {B, (*B, 1)}:
        check_same_shape(outputs, targets, name)
    return targets.reshape(outputs.shape)


def check_label_smoothing(smoothing: float) -> None:
    """Raise `UserError` unless it is in 0..1."""
    if not 0 <= smoothing <= 1:
        raise UserError(f"Label smoothing is a share in 0..1; got {smoothing}.")


def in_chunks(
    score: Callable[[Array, Array], Any],
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    chunk: int,
) -> Any:
    """score(features, targets), whose leaves are (B, T), of `chunk` tokens of each row at a time.

    So the logits of all tokens never stand in memory together: those of a chunk are computed again
    for its gradient (as in Wijmans et al. 2025, "Cut your losses in large-vocabulary language
    models", without its kernels).
    """
    if chunk < 1:
        raise UserError(f"A chunk is of at least 1 token of each row; got {chunk}.")
    B, T = targets.shape
    n = max(-(-T // chunk), 1)
    size = -(-T // n)

    # Every n-th token, not a piece of the row: where rows are split over devices, each has a part.
    def parts(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, size * n - T), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(B, size, n, *x.shape[2:]), 2, 0)

    one = jax.checkpoint(score)
    scores = jax.lax.map(lambda part: one(*part), (parts(features), parts(targets)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(B, size * n)[:, :T], scores)


def flat(images: Float[Array, "B *image"]) -> Float[Array, "B values"]:
    """The values of each image along one axis, in float32, to be summed.

    XLA's CPU compiler computes a sum over (H, W, 1) value by value, 60 times slower.
    """
    return images.reshape(len(images), -1).astype(jnp.float32)
