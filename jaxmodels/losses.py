"""Cross-entropies in nats of logits, also where a vocabulary makes too many of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxmodels.errors import UserError
from jaxmodels.kernels.softplus import softplus
from jaxmodels.typing import Array


def cross_entropy(
    logits: Float[Array, "*rows V"], targets: Int[Array, "*rows"], label_smoothing: float = 0.0
) -> Float[Array, "*rows"]:
    """-log softmax(logits)[target] in float32, nats.

    With smoothing a the target is (1 - a) one_hot + a / V (Szegedy et al. 2016, "Rethinking the
    Inception architecture", section 7). A target is picked by comparison, not by index: the
    gradient of a gather is a scatter into zeros as large as the logits. One outside the vocabulary
    costs NaN.
    """
    logits = logits.astype(jnp.float32)
    V = logits.shape[-1]
    own = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]
    picked = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    if label_smoothing:
        mean = jnp.sum(logits, axis=-1) / V
        picked = (1 - label_smoothing) * picked + label_smoothing * mean
    known = (targets >= 0) & (targets < V)
    return jnp.where(known, jax.nn.logsumexp(logits, axis=-1) - picked, jnp.nan)


def judged(
    logits: Float[Array, "*rows V"], targets: Int[Array, "*rows"]
) -> tuple[Float[Array, "*rows"], Bool[Array, "*rows"]]:
    """`cross_entropy`, and whether the target has the largest logit."""
    return cross_entropy(logits, targets), jnp.argmax(logits, axis=-1) == targets


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
    T = targets.shape[1]
    n = -(-T // chunk)

    # Every n-th token, not a piece of the row: where rows are split over devices, each has a part.
    def parts(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -T % n), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, n, *x.shape[2:]), 2, 0)  # n B T/n ...

    one = jax.checkpoint(score)
    found = jax.lax.map(lambda part: one(*part), (parts(features), parts(targets)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(len(targets), -1)[:, :T], found)


def flat(images: Float[Array, "B *image"]) -> Float[Array, "B values"]:
    """The values of each image along one axis, in float32, to be summed.

    XLA's CPU compiler computes a sum over (H, W, 1) value by value, 60 times slower.
    """
    return images.reshape(len(images), -1).astype(jnp.float32)


def binary_cross_entropy(
    logits: Float[Array, "*#any"], targets: Float[Array, "*#any"]
) -> Float[Array, "*any"]:
    """-x log p - (1 - x) log(1 - p) of each element, p = sigmoid(logits), in nats."""
    return softplus(logits) - targets * logits
