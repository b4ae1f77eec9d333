"""Batches from host memory to devices: sharding and prefetching.

Each host reads and sends only the rows that its devices hold.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.sharding.mesh import batch_sharding, batch_shards, field_sharding
from jaxmodels.typing import Batch

PREFETCH = 2
"""Batches that are on the way to the devices while a step runs."""


@runtime_checkable
class NumberedBatches(Protocol):
    """Batches indexed by step number, of which a host can read some rows only."""

    @property
    def batch_size(self) -> int: ...

    def iterate(self, start: int, stop: int, rows: Any = None) -> Iterator[Batch]: ...


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray | None:
    """The row indices of a batch that this process's devices hold, ascending; None for all rows.

    Raises:
        UserError: the mesh does not divide the batch.
    """
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise UserError(
            f"a batch of {batch_size} cannot be split over {shards} devices (mesh "
            f"{dict(mesh.shape)}); choose a batch size that is a multiple of {shards}, such as "
            f"{padded_batch_size(mesh, batch_size)}"
        )
    if jax.process_count() == 1:
        return None
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices]))


def padded_batch_size(mesh: Mesh, batch_size: int) -> int:
    """The smallest batch size, from this one up, that the mesh divides."""
    shards = batch_shards(mesh)
    return -(-batch_size // shards) * shards


def shard_batch(batch: Batch, mesh: Mesh, leading: int = 0) -> Any:
    """Global `jax.Array`s of a batch, from the rows of it that this process has read.

    Args:
        batch: this process's rows (`local_rows`); axis B comes after `leading` others.
        mesh: the devices; `field_sharding` says how each field is split.
        leading: 0, or 1 for a stack of several steps' batches.
    """
    share = _share_of_rows(mesh)

    def to_global(name: str, x: Any) -> jax.Array:
        sharding = field_sharding(name.rsplit("/", 1)[-1], np.shape(x), mesh, leading)
        shape = (*np.shape(x)[:leading], np.shape(x)[leading] * share, *np.shape(x)[leading + 1 :])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return tree.map_named(to_global, batch)


def abstract_batch(example: Batch, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """`jax.ShapeDtypeStruct`s, with shardings, of what `shard_batch` returns for such batches."""
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=field_sharding(name, x.shape, mesh))
        for name, x in example.items()
    }


def prefetch_to_devices(
    batches: NumberedBatches, mesh: Mesh, start: int, stop: int, per_call: int | None = None
) -> Iterator[Any]:
    """Yield batches `start` to `stop - 1` on the devices, sent `PREFETCH` calls ahead.

    With `per_call` they are stacked: leaves are (per_call, B, ...).
    """
    rows = local_rows(mesh, batches.batch_size)
    host = batches.iterate(start, stop, rows)
    if per_call is not None:
        host = _stacked(host, per_call)
    ready: collections.deque[Any] = collections.deque()
    for batch in host:
        ready.append(shard_batch(batch, mesh, leading=int(per_call is not None)))
        if len(ready) > PREFETCH:
            yield ready.popleft()
    yield from ready


def _share_of_rows(mesh: Mesh) -> int:
    """The global batch size divided by the number of rows that this process holds."""
    shards = batch_shards(mesh)
    held = local_rows(mesh, shards)
    return 1 if held is None else shards // len(held)


def _stacked(batches: Iterator[Batch], n: int) -> Iterator[Batch]:
    while group := list(itertools.islice(batches, n)):
        if len({tuple(map(np.shape, jax.tree.leaves(batch))) for batch in group}) > 1:
            raise UserError(
                "batches of several lengths cannot go to one call of several steps; "
                "use --steps-per-call 1"
            )
        yield jax.tree.map(lambda *arrays: np.stack(arrays), *group)
