"""Pooling without overlap, over the two spatial axes of (..., H, W, C)."""

from jaxmodels.typing import Array


def _windows(x: Array, window: int) -> Array:
    *B, H, W, C = x.shape
    h, w = H // window, W // window
    x = x[..., : h * window, : w * window, :]
    return x.reshape(*B, h, window, w, window, C)


def max_pool(x: Array, window: int = 2) -> Array:
    """Take the largest value of each window; rows and columns that fill no window are dropped."""
    return _windows(x, window).max(axis=(-4, -2))


def avg_pool(x: Array, window: int = 2) -> Array:
    """Average each window; rows and columns that fill no window are dropped."""
    return _windows(x, window).mean(axis=(-4, -2))
