"""From hosts to devices: each host reads and sends only the rows that its devices hold."""

import collections
import itertools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.sharding.mesh import batch_sharding, batch_shards, part_sharding
from jaxmodels.typing import Batch

AHEAD = 2


@runtime_checkable
class Readable(Protocol):
    """Batches by number, of which single rows can be read."""

    batch_size: int

    def iterate(self, start: int, stop: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """The batches `start` to `stop - 1`; of each, the rows asked for."""
        ...


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray | None:
    """The rows of a batch that this process's devices hold, ascending; None for all of them.

    Raises:
        UserError: the mesh does not divide the batch.
    """
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise UserError(
            f"a batch of {batch_size} cannot be split over {shards} devices (mesh "
            f"{dict(mesh.shape)}); choose a batch size that is a multiple of {shards}, such as "
            f"{-(-batch_size // shards) * shards}"
        )
    if jax.process_count() == 1:
        return None
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices]))


def feed(batch: Batch, mesh: Mesh, leading: int = 0) -> Any:
    """This process's rows of a batch as global arrays, split as `part_sharding` says.

    Args:
        batch: arrays whose axis B comes after `leading` others.
        mesh: where to.
        leading: 0, or 1 for a stack of several steps' batches.
    """
    share = _share_of_rows(mesh)

    def placed(name: str, x: Any) -> jax.Array:
        sharding = part_sharding(name.rsplit("/", 1)[-1], np.shape(x), mesh, leading)
        shape = (*np.shape(x)[:leading], np.shape(x)[leading] * share, *np.shape(x)[leading + 1 :])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return tree.map_named(placed, batch)


def abstract_batch(example: Batch, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of what `feed` gives for batches like this one."""
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=part_sharding(name, x.shape, mesh))
        for name, x in example.items()
    }


def stream(
    batches: Readable, mesh: Mesh, start: int, stop: int, per_call: int | None = None
) -> Iterator[Any]:
    """The batches `start` to `stop - 1` on the devices, sent two calls ahead.

    With `per_call` they come stacked, `(per_call, B, ...)`.
    """
    rows = local_rows(mesh, batches.batch_size)
    host = batches.iterate(start, stop, rows)
    if per_call is not None:
        host = _stacked(host, per_call)
    ready: collections.deque[Any] = collections.deque()
    for batch in host:
        ready.append(feed(batch, mesh, leading=int(per_call is not None)))
        if len(ready) > AHEAD:
            yield ready.popleft()
    yield from ready


def _share_of_rows(mesh: Mesh) -> int:
    """How many times the rows that this process holds make the whole batch."""
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
