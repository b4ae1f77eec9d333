"""Run a model on a mesh and gather its outputs as numpy arrays on every host."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.adapters import has_model, map_model
from jaxmodels.report import Section, sections
from jaxmodels.sharding import local_rows, padded_batch_size, replicated, shard_batch, use_mesh
from jaxmodels.typing import Model

Inspection = Callable[[Any, Mapping[str, Any], Mesh], Sequence[Section]]


def jit_on_mesh(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`fn` under `jit`, its results as numpy arrays on every host."""

    def traced(*args: Any) -> Any:
        with use_mesh(mesh):
            return fn(*args)

    compiled = jax.jit(traced, out_shardings=replicated(mesh))
    return lambda *args: jax.device_get(compiled(*args))


def split_rows(mesh: Mesh, *arrays: Any) -> list[jax.Array]:
    """Arrays (B, ...), the same on every host, with their rows split over the mesh's devices.

    The last row is repeated until the devices divide B.
    """
    size = padded_batch_size(mesh, len(arrays[0]))
    rows = local_rows(mesh, size)
    chosen = np.minimum(np.arange(size) if rows is None else rows, len(arrays[0]) - 1)
    fields = {str(n): np.asarray(array)[chosen] for n, array in enumerate(arrays)}
    split = shard_batch(fields, mesh)
    return [split[name] for name in fields]


def map_rows(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`fn(variables, *arrays)`, compiled, with the rows of arrays (B, ...) split over the mesh.

    Results (B, ...) come whole to every host. `fn` sees more rows where B does not divide.
    """
    compiled = jit_on_mesh(fn, mesh)

    def mapped(variables: Any, *arrays: Any) -> Any:
        results = compiled(variables, *split_rows(mesh, *arrays))
        return jax.tree.map(lambda x: x[: len(arrays[0])], results)

    return mapped


def gather(arrays: Any, mesh: Mesh) -> Any:
    """Arrays on the mesh as numpy arrays, whole on every host."""
    return jit_on_mesh(lambda x: x, mesh)(arrays)


def map_split(
    fn: Callable[[Any, Any], Any], split: Any, variables: Any, mesh: Mesh, batch_size: int
) -> Any:
    """`fn(variables, batch)` of every example of a split, in order: arrays (N, ...).

    `fn` takes preprocessed batches and returns a tree of arrays (B, ...).
    """
    size = padded_batch_size(mesh, batch_size)
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
    """The sections of several inspections, in their order; one that fails is shown as such."""

    parts: tuple[Inspection, ...]

    def __call__(self, variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> list[Section]:
        return sections(
            (
                getattr(part, "__name__", type(part).__name__),
                partial(part, variables, metrics, mesh),
            )
            for part in self.parts
        )

    def map_model(self, fn: Callable[[Model], Model]) -> "Concat":
        """The same with `fn` applied to the model of each part."""
        return Concat(tuple(map_model(p, fn) if has_model(p) else p for p in self.parts))


def concat(*parts: Inspection) -> Concat:
    """One inspection made of several."""
    return Concat(parts)
