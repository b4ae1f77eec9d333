"""2-D convolution with a custom gradient that is fast on CPUs; other backends keep XLA's own.

Two things make XLA's own slow there (jax 0.10, two cores, float32, batch 128, whole training step):

- Its kernel gradient runs at 20 to 40 GFLOP/s, where the forward pass reaches 130, and XLA computes
  the inputs again, normalisation and all, while it transposes them for it. Here it is a sum of
  matrix products over chunks that stay in the cache.
- Inside a loop (`lax.scan` over steps or microbatches) both gradients become naive code, since only
  convolutions outside of loops are brought into the layout that the library runs.

| milliseconds a step | XLA's | here | PyTorch 2.13 eager |
|---|---|---|---|
| ResNet-20, CIFAR | 605 | 410 | 235 |
| ConvNet, MNIST (with `kernels.pool`) | 73 | 55 | 39 |
| ConvNet, in a `lax.scan` | 1,850 | 43 | |
| LeNet-5, MNIST (with `kernels.pool`) | 16 | 16 | 8.6 |

The price is that it has no forward mode: `jax.jvp` raises (`jax.jvp` of `jax.grad` does not).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.typing import Array

DIMENSIONS = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
CHUNK_BYTES = 2**20
"""Bytes of the inputs that are unfolded at a time: half of a core's second-level cache."""

Pads = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: Any, **kwargs: Any
) -> Array:
    """Convolve; a drop-in for `jax.lax.conv_general_dilated` with the same values and gradients."""
    if _is_plain(lhs, rhs, kwargs):
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
        return _convolve(lhs, rhs, tuple(window_strides), tuple(padding))
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def _is_plain(lhs: Array, rhs: Array, kwargs: dict[str, Any]) -> bool:
    """Tell whether it is a 2-D convolution of (B, H, W, C) without groups or dilation."""
    undilated = (None, (1, 1))
    return (
        lhs.ndim == 4
        and lhs.dtype == rhs.dtype
        and kwargs.get("dimension_numbers") == DIMENSIONS
        and kwargs.get("lhs_dilation") in undilated
        and kwargs.get("rhs_dilation") in undilated
        and kwargs.get("feature_group_count", 1) == kwargs.get("batch_group_count", 1) == 1
        and kwargs.get("precision") is kwargs.get("preferred_element_type") is None
    )


def _native(x: Array, kernel: Array, strides: Sequence[int], pads: Pads) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: Sequence[int], pads: Pads) -> Array:
    return _native(x, kernel, strides, pads)


def _forward(x: Array, kernel: Array, strides: Sequence[int], pads: Pads) -> tuple[Array, Any]:
    return _native(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: Sequence[int], pads: Pads, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    def native(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, kernel: _native(x, kernel, strides, pads), x, kernel)[1](dy)

    def cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        dkernel = _kernel_gradient(x, dy, kernel.shape[:2], strides, pads)
        return _input_gradient(x.shape, kernel, dy, strides, pads), dkernel

    return lax.platform_dependent(*residuals, dy, cpu=cpu, default=native)


_convolve.defvjp(_forward, _backward)


def _input_gradient(
    shape: Sequence[int], kernel: Array, dy: Array, strides: Sequence[int], pads: Pads
) -> Array:
    """Convolve `dy` with the turned kernel.

    The kernel is turned explicitly, since XLA's CPU compiler brings a convolution into the layout
    that its library can run only outside of loops; in a `lax.scan` it would be naive code.
    """
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    low = [k - 1 - before for k, (before, _) in zip(kernel.shape, pads, strict=False)]
    high = [
        size - before + k - 2 - (n - 1) * stride
        for size, before, k, n, stride in zip(
            shape[1:3], low, kernel.shape, dy.shape[1:3], strides, strict=False
        )
    ]
    return lax.conv_general_dilated(
        dy,
        turned,
        (1, 1),
        list(zip(low, high, strict=True)),
        lhs_dilation=strides,
        dimension_numbers=DIMENSIONS,
    )


def _kernel_gradient(
    x: Array, dy: Array, size: Sequence[int], strides: Sequence[int], pads: Pads
) -> Array:
    """Sum matrix products over chunks of the batch that stay in the cache while unfolded."""
    (B, H, W, C), (_, h, w, F) = x.shape, dy.shape
    if not x.size or not dy.size:
        return jnp.zeros((*size, C, F), x.dtype)
    n = _chunk(B, h * w * size[1] * C * x.dtype.itemsize)
    product = _by_taps if C < 8 else _by_shifts

    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add(i: Array, total: Array) -> Array:
        # Every (B/n)th image, so that a batch sharded over devices stays so.
        part = x.reshape(n, -1, H, W, C)[:, i], dy.reshape(n, -1, h, w, F)[:, i]
        return total + product(*part, size, strides, pads)

    total = lax.fori_loop(0, B // n, add, jnp.zeros((*size, C, F), wide))
    return total.astype(x.dtype)


def _chunk(B: int, bytes_each: int) -> int:
    most = min(B, max(8, CHUNK_BYTES // bytes_each))
    return max(n for n in range(1, most + 1) if B % n == 0)


def _by_taps(x: Array, dy: Array, size: Sequence[int], strides: Sequence[int], pads: Pads) -> Array:
    """Multiply every shifted copy of `x` by `dy`; for few channels."""
    (kh, kw), (sh, sw) = size, strides
    (_, h, w, F), C = dy.shape, x.shape[-1]
    x = _pad(_pad(x, 1, *pads[0]), 2, *pads[1]).transpose(3, 1, 2, 0)
    taps = [
        x[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    dy = dy.transpose(1, 2, 0, 3)
    total = jnp.dot(
        jnp.stack(taps).reshape(kh * kw * C, -1),
        dy.reshape(-1, F),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    return total.reshape(kh, kw, C, F)


def _by_shifts(
    x: Array, dy: Array, size: Sequence[int], strides: Sequence[int], pads: Pads
) -> Array:
    """Multiply columns of `x` by rows of `dy`, each shifted: kh + kw copies, not kh * kw.

    With s the stride, tap i = s m + a pairs row s t + a of `x` with row t - m of `dy`.
    """
    (kh, kw), (sh, sw) = size, strides
    (top, _), (left, _) = pads
    (_, H, W, C), (_, h, w, F) = x.shape, dy.shape
    skip, rows, shifts = top // sh, -(-(H + top % sh) // sh), -(-kh // sh)
    x = _pad(x, 1, top % sh, rows * sh - H - top % sh)
    x = _pad(x, 2, left, (w - 1) * sw + kw - W - left)
    columns = [x[:, a::sh, j : j + (w - 1) * sw + 1 : sw] for a in range(sh) for j in range(kw)]
    dy = dy.transpose(3, 0, 1, 2)
    shifted = [_pad(dy, 2, m - skip, rows - h - m + skip) for m in range(shifts)]
    total = jnp.dot(
        jnp.concatenate(shifted).reshape(shifts * F, -1),
        jnp.concatenate(columns, -1).reshape(-1, sh * kw * C),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    total = total.reshape(shifts, F, sh, kw, C).transpose(0, 2, 3, 4, 1)
    return total.reshape(shifts * sh, kw, C, F)[:kh]


def _pad(x: Array, axis: int, low: int, high: int) -> Array:
    """Pad one axis with zeros; negative numbers crop."""
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (low, high, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
