"""The sections of trained autoencoders, plain and variational."""

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from jaxmodels.report.images import displayable, png
from jaxmodels.report.page import Section

Sections = Callable[[Any, Mapping[str, Any]], list[Section]]
Inputs = Callable[[Mapping[str, Any]], tuple[Any, ...]]

COLUMNS = 12
ROWS = 6
SIDE = 15
"""Of the grid over a latent plane."""
CELL = 52
"""CSS pixels of an image."""


def reconstruction(model: Any, split: Any) -> Sections:
    """Look at a trained plain autoencoder: `(variables, measured) -> sections`.

    Originals beside reconstructions, and walks between examples.
    """

    def sections(variables: Any, measured: Mapping[str, Any]) -> list[Section]:
        view = _View(model, variables, *_examples(split))
        return [view.reconstructions(), view.walks()]

    return sections


def latent(model: Any, split: Any, inputs: Inputs | None = None) -> Sections:
    """Look at a trained model with latents: `(variables, measured) -> sections`.

    Originals beside reconstructions, samples, and the latents: of a plane the images at a grid of
    normal quantiles (Kingma and Welling 2014, "Auto-encoding variational Bayes", figure 4), of
    more dimensions walks between examples. `inputs` picks the image, and what else is given to
    encoder and decoder; the image alone if absent.
    """

    def sections(variables: Any, measured: Mapping[str, Any]) -> list[Section]:
        view = _View(model, variables, *_examples(split, inputs))
        last = view.plane() if view.codes.shape[1] == 2 else view.walks()
        return [view.reconstructions(), view.samples(), last]

    return sections


class _View:
    """A model with its variables, some images (N, H, W, C) and what they are given with."""

    def __init__(self, model: Any, variables: Any, images: np.ndarray, *conditions: Any) -> None:
        import jax

        self.model, self.variables = model, variables
        self.images, self.conditions = images, conditions
        self._apply = jax.jit(model.apply, static_argnames="method")
        self.codes = np.asarray(self._apply(variables, images, *conditions, method="encode"))

    def reconstructions(self) -> Section:
        decoded = self._decoded(self.codes, np.arange(len(self.codes)))
        pairs = np.stack([self.images, decoded]).reshape(2, -1, COLUMNS, *decoded.shape[1:])
        rows = np.swapaxes(pairs, 0, 1).reshape(-1, *decoded.shape[1:])
        note = "Every first row are examples, every second one what becomes of them."
        return Section("Reconstructions", mosaic(rows[: ROWS * COLUMNS], COLUMNS, note))

    def samples(self) -> Section:
        import jax

        draw = jax.jit(self.model.apply, static_argnums=1, static_argnames="method")
        rngs = {"sample": jax.random.key(0)}
        count = len(self.images)
        images = draw(self.variables, count, *self.conditions, method="sample", rngs=rngs)
        note = "Latents drawn from the prior; each pixel is its expected value."
        return Section("Samples", mosaic(np.asarray(images), COLUMNS, note))

    def plane(self) -> Section:
        ticks = [NormalDist().inv_cdf((n + 0.5) / SIDE) for n in range(SIDE)]
        across, down = np.meshgrid(ticks, ticks[::-1])
        codes = np.stack([across.ravel(), down.ravel()], axis=1).astype(np.float32)
        note = "The images at a grid of the plane of latents, whose lines are normal quantiles."
        images = self._decoded(codes, np.zeros(len(codes), int))
        return Section("Latent plane", mosaic(images, SIDE, note))

    def walks(self) -> Section:
        share = np.linspace(0, 1, COLUMNS, dtype=np.float32)[None, :, None]
        start, end = self.codes[:ROWS, None], self.codes[ROWS : 2 * ROWS, None]
        codes = (start + share * (end - start)).reshape(-1, self.codes.shape[1])
        images = self._decoded(codes, np.repeat(np.arange(ROWS), COLUMNS))
        note = "Decoded on the straight line between the codes of two examples."
        return Section("Walks between examples", mosaic(images, COLUMNS, note))

    def _decoded(self, codes: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Images of these codes, each with the conditions of the example `like` it."""
        conditions = (np.asarray(condition)[like] for condition in self.conditions)
        return np.asarray(self._apply(self.variables, codes, *conditions, method="decode"))


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


def _examples(split: Any, inputs: Inputs | None = None) -> tuple[Any, ...]:
    """What `inputs` picks of examples at random, as many as fit the rows of pairs."""
    from jaxmodels.inputs import image_input

    count = ROWS * COLUMNS // 2
    chosen = np.random.default_rng(0).permutation(len(split))
    chosen = np.resize(chosen, count)
    picked = (inputs or image_input)(split.preprocess(split.read(chosen)))
    return tuple(np.asarray(part) for part in picked)
