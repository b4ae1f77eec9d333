"""Cross-entropies in nats of logits, also where a vocabulary makes too many of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxmodels.typing import Array


def cross_entropy(
    logits: Float[Array, "*rows V"], targets: Int[Array, "*rows"], label_smoothing: float = 0.0
) -> Float[Array, "*rows"]:
    """-log softmax(logits)[target] in float32, nats.

    With smoothing a the target is (1 - a) one_hot + a / V (Szegedy et al. 2016, "Rethinking the
    Inception architecture", section 7). A target is picked by comparison, not by index: the
    gradient of a gather is a scatter into zeros as large as the logits.
    """
    logits = logits.astype(jnp.float32)
    V = logits.shape[-1]
    own = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]
    picked = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    if label_smoothing:
        mean = jnp.sum(logits, axis=-1) / V
        picked = (1 - label_smoothing) * picked + label_smoothing * mean
    return jax.nn.logsumexp(logits, axis=-1) - picked


def chunked_cross_entropy(
    logits: Callable[[Array], Array],
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    chunk: int,
) -> Float[Array, "B T"]:
    """`cross_entropy(logits(features), targets)` of `chunk` tokens of each row at a time.

    The logits of all tokens never stand in memory together: those of a chunk are computed again
    for its gradient (as in Wijmans et al. 2025, "Cut your losses in large-vocabulary language
    models", without its kernels).
    """
    T = targets.shape[1]
    n = -(-T // chunk)

    # Every n-th token, not a piece of the row: where rows are split over devices, each has a part.
    def parts(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -T % n), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, n, *x.shape[2:]), 2, 0)  # n B T/n ...

    @jax.checkpoint
    def one(part: tuple[Array, Array]) -> Array:
        x, label = part
        return cross_entropy(logits(x), label)

    losses = jax.lax.map(one, (parts(features), parts(targets)))
    return jnp.moveaxis(losses, 0, 2).reshape(len(targets), -1)[:, :T]


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


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)); value and gradient take a third of `jax.nn.softplus`'s time on a CPU."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * dx
