"""Max and average pooling without overlap, over the two spatial axes of (..., H, W, C).

Written with reshapes: the gradient of `lax.reduce_window`'s maximum takes two fifths of a small
ConvNet's step on a CPU. Where several values of a window are the largest, they share the gradient
equally, as for `jnp.max`; `nn.max_pool` gives all of it to the first.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.typing import Array


def max_pool(x: Array, window: int = 2) -> Array:
    """Take the largest value of each window; rows and columns that fill no window are dropped."""
    return _largest(_windows(x, window))


def avg_pool(x: Array, window: int = 2) -> Array:
    """Average each window; rows and columns that fill no window are dropped."""
    return _windows(x, window).mean(axis=(-4, -2))


def _windows(x: Array, window: int) -> Array:
    *B, H, W, C = x.shape
    h, w = H // window, W // window
    x = x[..., : h * window, : w * window, :]
    return x.reshape(*B, h, window, w, window, C)


@jax.custom_jvp
def _largest(windows: Array) -> Array:
    # Slices, not a reduction: the CPU compiler hands that to a library, and cannot fuse it.
    return functools.reduce(jnp.maximum, _members(windows))


@_largest.defjvp
def _largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (windows,), (change,) = primals, tangents
    largest = _largest(windows)
    hits = windows == largest[..., :, None, :, None, :]
    count = functools.reduce(jnp.add, [hit.astype(windows.dtype) for hit in _members(hits)])
    return largest, jnp.sum(jnp.where(hits, change, 0), axis=(-4, -2)) / count


def _members(windows: Array) -> list[Array]:
    n = windows.shape[-2]
    return [windows[..., i, :, j, :] for i in range(n) for j in range(n)]
