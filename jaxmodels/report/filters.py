"""First-layer filters as images."""

import math

import numpy as np

from jaxmodels.report.images import png, signed
from jaxmodels.report.page import Section


def filters(kernel: np.ndarray, largest: int = 64) -> Section:
    """Show the filters of a kernel (H, W, C, units), or (D, units) when D is a square image's size.

    One channel: orange is positive, blue negative, each filter scaled by its greatest magnitude.
    Three channels: colours around grey. Other depths: the mean over the channels. Of more than
    `largest` filters, those of the greatest norm.
    """
    stack = np.moveaxis(as_images(np.asarray(kernel, np.float32)), -1, 0)
    norms = np.sqrt((stack**2).sum(axis=(1, 2, 3)))
    chosen = np.argsort(-norms, kind="stable")[:largest]
    images = (f'<img class="pixels" src="{png(p)}" alt="">' for p in _pictures(stack[chosen]))
    note = f"{len(chosen)} of {len(stack)} filters, ordered by norm." + (
        " Orange is positive, blue negative." if stack.shape[-1] != 3 else ""
    )
    text = f'<div class="filters">{"".join(images)}</div><p class="note">{note}</p>'
    return Section("First-layer filters", text)


def as_images(kernel: np.ndarray) -> np.ndarray:
    """A kernel as (H, W, C, units); a ValueError if it has no such form."""
    if kernel.ndim == 4:
        return kernel
    for channels in (1, 3):
        side = math.isqrt(kernel.shape[0] // channels)
        if kernel.ndim == 2 and side * side * channels == kernel.shape[0]:
            return kernel.reshape(side, side, channels, -1)
    raise ValueError(
        f"expected a kernel (H, W, C, units), or (D, units) with D = side² or 3 side²; "
        f"it has shape {kernel.shape}"
    )


def _pictures(stack: np.ndarray) -> np.ndarray:
    """RGBA (units, H, W, 4) of filters (units, H, W, C)."""
    if stack.shape[-1] != 3:
        stack = stack.mean(axis=-1, keepdims=True)
    greatest = np.abs(stack).max(axis=(1, 2, 3), keepdims=True)
    scaled = stack / np.where(greatest > 0, greatest, 1.0)
    if stack.shape[-1] != 3:
        return signed(scaled[..., 0])
    color = np.round(127.5 + 127.5 * scaled).astype(np.uint8)
    return np.concatenate([color, np.full_like(color[..., :1], 255)], axis=-1)
