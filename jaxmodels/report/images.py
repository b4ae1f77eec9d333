"""Arrays as PNG pictures inside the page."""

import base64
import io

import numpy as np

CELL = 52
"""CSS pixels of an image in a mosaic."""
POSITIVE, NEGATIVE = (224, 108, 32), (44, 116, 216)


def png(pixels: np.ndarray) -> str:
    """Encode uint8 pixels (H, W), (H, W, 3) or (H, W, 4) as a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def displayable(images: np.ndarray, largest: int = 96) -> np.ndarray:
    """Bring images (B, H, W, C) to uint8 (B, H, W, 3) or (B, H, W), at most `largest` pixels wide.

    Images of floats are stretched together from their least to their greatest value.
    """
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        images = np.round(255 * (images - low) / ((high - low) or 1.0)).astype(np.uint8)
    stride = -(-max(images.shape[1:3]) // largest)
    images = images[:, ::stride, ::stride]
    return images[..., :3] if images.shape[-1] >= 3 else images[..., 0]


def signed(values: np.ndarray) -> np.ndarray:
    """Values in -1..1 as RGBA (..., 4): orange above zero, blue below, zero transparent."""
    color = np.where(values[..., None] > 0, np.array(POSITIVE), np.array(NEGATIVE))
    alpha = np.round(255 * np.clip(np.abs(values), 0, 1))[..., None]
    return np.concatenate([color, alpha], axis=-1).astype(np.uint8)


def mosaic(images: np.ndarray, columns: int, note: str) -> str:
    """Images (N, H, W, C) in 0..1 as one picture, `columns` in a row, with a note below."""
    tiles = displayable(np.round(255 * np.clip(images, 0, 1)).astype(np.uint8))
    if tiles.ndim == 3:
        tiles = np.repeat(tiles[..., None], 3, axis=-1)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=255)
    # Transparent gaps take the colour of the page.
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (0, 1), (0, 1), (0, 0)))
    N, H, W, C = tiles.shape
    rows = tiles.reshape(N // columns, columns, H, W, C).swapaxes(1, 2)
    picture = rows.reshape(N // columns * H, columns * W, C)[:-1, :-1]
    style = f"width: {CELL * columns}px"
    image = f'<img class="pixels" style="{style}" src="{png(picture)}" alt="{note}">'
    return f'{image}<p class="note">{note}</p>'
