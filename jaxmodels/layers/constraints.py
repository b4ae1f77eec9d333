"""Sharding constraints on activations: rows of the batch, tokens of a sequence."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.typing import BATCH_AXES, Array


def constrain_batch(x: Array, sequence: bool = True) -> Array:
    """Constrain x (B, ...) to be sharded as the batch is, and with `sequence` (B, T, ...) so too.

    Without this XLA's partitioner, given kernels that `fsdp` splits, leaves every device the whole
    batch with a piece of the features, and sums over devices after each product (compiled for TPU
    v5e, jax 0.10; `tests/test_collectives.py`). Between dense layers that `tensor` splits and
    convolutions it even permutes some rows and not others (jax 0.10; `tests/test_placement.py`).
    Returns x as it is where no mesh is set, and where the mesh does not divide it.
    """
    spec = _split(x, sequence)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def per_shard(fn: Callable[..., Any], params: Any, *arrays: Array) -> Any:
    """fn(params, *arrays) by `jax.shard_map`: each device computes its shard of arrays (B, T, ...).

    `fn` must treat each token alone. The params are gathered once and their gradients summed once,
    also where `fn` is a loop, in which the partitioner would do so at each turn.
    """
    spec = _split(arrays[0])
    if spec is None:
        return fn(params, *arrays)
    own = {axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)}
    specs = PartitionSpec(), *[spec] * len(arrays)
    return jax.shard_map(fn, in_specs=specs, out_specs=spec, axis_names=own)(params, *arrays)


def _split(x: Array, sequence: bool = True) -> PartitionSpec | None:
    mesh = jax.sharding.get_abstract_mesh()
    # Within `shard_map` an axis is no longer the partitioner's: each device has its own rows.
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    free = {axis for axis, kind in kinds if kind == AxisType.Auto}
    batch = tuple(axis for axis in BATCH_AXES if axis in free)
    if not batch or x.shape[0] % math.prod(mesh.shape[axis] for axis in batch):
        return None
    split = sequence and "sequence" in free and x.shape[1] % mesh.shape["sequence"] == 0
    return PartitionSpec(batch, "sequence" if split else None)
