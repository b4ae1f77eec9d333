"""Reconstructions, samples and latent spaces of trained autoencoders, plain and variational."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.inspect.on_mesh import map_rows
from jaxmodels.report import Section
from jaxmodels.report.images import mosaic
from jaxmodels.typing import Model, batch_fields, field_names

COLUMNS, ROWS = 12, 6
SIDE = 15
"""Of the grid over a latent plane."""


@dataclasses.dataclass(frozen=True)
class Autoencoding:
    """See `reconstruction` and `latents`."""

    model: Model
    split: Any
    inputs: tuple[str, ...]
    generative: bool

    def __call__(self, variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> list[Section]:
        del metrics
        view = _View(self.model, variables, mesh, *_examples(self.split, self.inputs))
        if not self.generative:
            return [view.reconstructions(), view.interpolations()]
        last = view.plane() if view.codes.shape[1] == 2 else view.interpolations()
        return [view.reconstructions(), view.samples(), last]


def reconstruction(model: Model, split: Any, inputs: Sequence[str] = ("image",)) -> Autoencoding:
    """Show a plain autoencoder: originals beside reconstructions, interpolations of codes."""
    return Autoencoding(model, split, field_names(inputs), generative=False)


def latents(model: Model, split: Any, inputs: Sequence[str] = ("image",)) -> Autoencoding:
    """Show a model with latents: reconstructions, samples, and the latent space.

    Of a plane of latents the images at a grid of normal quantiles (Kingma and Welling 2014,
    "Auto-encoding variational Bayes", figure 4), of more dimensions interpolations between
    examples. The first of `inputs` is the image; others are given to encoder and decoder too.
    """
    return Autoencoding(model, split, field_names(inputs), generative=True)


class _View:
    """A model with its variables, some images (N, H, W, C) and their conditions."""

    def __init__(
        self, model: Any, variables: Any, mesh: Mesh, images: np.ndarray, *conditions: Any
    ) -> None:
        self.model, self.variables, self.mesh = model, variables, mesh
        self.images, self.conditions = images, conditions
        self.codes = np.asarray(self._run("encode", images, *conditions))

    def reconstructions(self) -> Section:
        decoded = self._decode(self.codes, np.arange(len(self.codes)))
        pairs = np.stack([self.images, decoded]).reshape(2, -1, COLUMNS, *decoded.shape[1:])
        rows = np.swapaxes(pairs, 0, 1).reshape(-1, *decoded.shape[1:])
        note = "Rows of originals, each with their reconstructions below."
        return Section("Reconstructions", mosaic(rows[: ROWS * COLUMNS], COLUMNS, note))

    def samples(self) -> Section:
        rngs = {"sample": jax.random.key(0)}

        def sample(variables: Any, images: Any, *conditions: Any) -> Any:
            method = functools.partial(self.model.apply, method="sample", rngs=rngs)
            return method(variables, len(images), *conditions)

        images = map_rows(sample, self.mesh)(self.variables, self.images, *self.conditions)
        note = "Latents drawn from the prior; each pixel is its expected value."
        return Section("Samples", mosaic(np.asarray(images), COLUMNS, note))

    def plane(self) -> Section:
        ticks = [NormalDist().inv_cdf((n + 0.5) / SIDE) for n in range(SIDE)]
        across, down = np.meshgrid(ticks, ticks[::-1])
        codes = np.stack([across.ravel(), down.ravel()], axis=1).astype(np.float32)
        note = "Decoded images over the plane of latents, at a grid of normal quantiles."
        images = self._decode(codes, np.zeros(len(codes), int))
        return Section("Latent plane", mosaic(images, SIDE, note))

    def interpolations(self) -> Section:
        share = np.linspace(0, 1, COLUMNS, dtype=np.float32)[None, :, None]
        start, end = self.codes[:ROWS, None], self.codes[ROWS : 2 * ROWS, None]
        codes = (start + share * (end - start)).reshape(-1, self.codes.shape[1])
        images = self._decode(codes, np.repeat(np.arange(ROWS), COLUMNS))
        note = "Decoded along the straight line between the codes of two examples."
        return Section("Interpolations", mosaic(images, COLUMNS, note))

    def _decode(self, codes: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Images of these codes, each with the conditions of the example `like` it."""
        conditions = (np.asarray(condition)[like] for condition in self.conditions)
        return np.asarray(self._run("decode", codes, *conditions))

    def _run(self, method: str, *inputs: Any) -> Any:
        apply = functools.partial(self.model.apply, method=method)
        return map_rows(apply, self.mesh)(self.variables, *inputs)


def _examples(split: Any, inputs: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The inputs of examples at random, as many as fill the rows of pairs."""
    count = ROWS * COLUMNS // 2
    chosen = np.resize(np.random.default_rng(0).permutation(len(split)), count)
    fields = batch_fields(split.preprocess(split.read(chosen)), inputs)
    return tuple(np.asarray(jax.device_get(part)) for part in fields)
