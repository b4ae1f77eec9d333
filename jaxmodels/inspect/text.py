"""Texts sampled from a trained language model."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.generate import generate, temperature
from jaxmodels.inspect.on_mesh import gather, split_rows
from jaxmodels.report import Section, samples
from jaxmodels.report.text import rate
from jaxmodels.typing import Model


@dataclasses.dataclass(frozen=True, eq=False)
class TextSamples:
    """See `text_samples`."""

    model: Model
    prompt: np.ndarray
    decode: Callable[[list[int]], str]
    length: int
    rows: int
    temperatures: tuple[float, ...]

    def __call__(self, variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> list[Section]:
        del metrics
        self._sample(variables, self.temperatures[0], mesh)
        begun = time.perf_counter()
        drawn = {t: self._sample(variables, t, mesh) for t in self.temperatures}
        seconds = time.perf_counter() - begun
        texts = {
            f"temperature {t:g}": [self.decode(row.tolist()) for row in ids]
            for t, ids in drawn.items()
        }
        tokens = sum(ids.size for ids in drawn.values())
        return [samples(texts, f"{rate(tokens, seconds)}, {self.rows} samples at a time.")]

    def _sample(self, variables: Any, t: float, mesh: Mesh) -> np.ndarray:
        (prompt,) = split_rows(mesh, np.repeat(self.prompt, self.rows, axis=0))
        key = jax.random.key(0)
        ids = generate(self.model, variables, prompt, self.length, key, temperature(t))
        return np.asarray(gather(ids, mesh))[: self.rows]


def text_samples(
    model: Model,
    prompt: Any,
    decode: Callable[[list[int]], str],
    length: int = 400,
    rows: int = 2,
    temperatures: Sequence[float] = (0.5, 0.8, 1.0),
) -> TextSamples:
    """Show texts that a language model samples after a prompt (ids), at several temperatures.

    `decode` makes a text of a row's ids. The tokens per second are those of the calls after the
    first one, which compiles.
    """
    ids = np.asarray(prompt, np.int32)[None]
    return TextSamples(model, ids, decode, length, rows, tuple(temperatures))
