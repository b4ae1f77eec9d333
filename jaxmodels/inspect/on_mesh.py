"""Run a model on a mesh and gather its outputs as numpy arrays on every host."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.adapters import map_model
from jaxmodels.report import Section
from jaxmodels.sharding import batch_shards, local_rows, replicated, shard_batch, use_mesh
from jaxmodels.typing import Model

Inspection = Callable[[Any, Mapping[str, Any], Mesh], list[Section]]


def jit_on_mesh(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`fn` under `jit`, its results as numpy arrays on every host."""

    def traced(*args: Any) -> Any:
        with use_mesh(mesh):
            return fn(*args)

    compiled = jax.jit(traced, out_shardings=replicated(mesh))
    return lambda *args: jax.device_get(compiled(*args))


def gather(arrays: Any, mesh: Mesh) -> Any:
    """Arrays on the mesh as numpy arrays, whole on every host."""
    return jit_on_mesh(lambda x: x, mesh)(arrays)


def map_split(
    fn: Callable[[Any, Any], Any], split: Any, variables: Any, mesh: Mesh, batch_size: int
) -> Any:
    """`fn(variables, batch)` of every example of a split, in order: arrays (N, ...).

    `fn` takes preprocessed batches and returns a tree of arrays (B, ...).
    """
    shards = batch_shards(mesh)
    size = -(-batch_size // shards) * shards
    rows = local_rows(mesh, size)

    def of_batch(variables: Any, batch: Any) -> Any:
        return fn(variables, split.preprocess(batch)), batch["mask"]

    compiled, parts = jit_on_mesh(of_batch, mesh), []
    for batch in split.padded(size, rows):
        results, mask = compiled(variables, shard_batch(batch, mesh))
        parts.append(jax.tree.map(lambda x, kept=mask: x[kept], results))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


@dataclasses.dataclass(frozen=True)
class Concat:
    """The sections of several inspections, in their order."""

    parts: tuple[Inspection, ...]

    def __call__(self, variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> list[Section]:
        return [section for part in self.parts for section in part(variables, metrics, mesh)]

    def map_model(self, fn: Callable[[Model], Model]) -> "Concat":
        """The same with `fn` applied to the model of each part."""
        return Concat(tuple(map_model(part, fn) for part in self.parts))


def concat(*parts: Inspection) -> Concat:
    """One inspection made of several."""
    return Concat(parts)
