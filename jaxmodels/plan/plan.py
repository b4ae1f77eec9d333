"""The plan of a training step: memory, FLOPs, collectives, lower bounds, placement."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxmodels import flops, tree
from jaxmodels.plan.collectives import CollectiveSummary
from jaxmodels.plan.compiler import compile_step
from jaxmodels.plan.target import Target
from jaxmodels.sharding import abstract_batch
from jaxmodels.sharding.rules import FSDP_MIN_SIZE

UTILISATIONS = 0.4, 0.6
"""Fractions of the peak FLOP/s for which the throughput is given."""


@dataclasses.dataclass(frozen=True)
class ParamPlacement:
    """The sharding of one parameter.

    Attributes:
        path: of the parameter.
        shape: of the whole parameter.
        spec: the mesh axis that splits each dimension, None for a whole one.
        bytes: of one device's shard.
        undivided: axes among `fsdp` and `tensor` that do not split it, although it is large: no
            rule names a dimension for them, or they do not divide it.
    """

    path: str
    shape: tuple[int, ...]
    spec: tuple[Any, ...]
    bytes: int
    undivided: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Resources of a training step on devices that need not be present.

    Attributes:
        target: name of the compile target.
        devices: number of devices.
        chip: name of the chip, None if its peak numbers are unknown.
        mesh: axis sizes.
        parameters: number of parameters.
        memory: bytes on one device, by use.
        memory_limit: bytes that a device has, None if unknown.
        flops: FLOPs of a step on all devices.
        matmul_flops: the part of `flops` in matrix products and convolutions; utilisation (MFU)
            counts these.
        device_matmul_flops: the same on one device as compiled; at least its equal share of
            `matmul_flops`, and more where a mesh axis does not split a product. None if the step
            does not fit, and was not compiled.
        uncounted: operations that the FLOP counts leave out.
        lower_bounds: lower bounds of the step time in seconds, those that are known: `matmul` at
            peak FLOP/s, `memory` for reading the arguments and writing the results once, `network`
            for the collectives at the full rate of the interconnect.
        per_step: examples, and tokens if the batch has any.
        collectives: of a step; None if the step does not fit, and was not compiled.
        placement: of each parameter.
        compile_seconds: compile time on this machine.
    """

    target: str
    devices: int
    chip: str | None
    mesh: Mapping[str, int]
    parameters: int
    memory: Mapping[str, int]
    memory_limit: int | None
    flops: int
    matmul_flops: int
    device_matmul_flops: int | None
    uncounted: tuple[str, ...]
    lower_bounds: Mapping[str, float]
    per_step: Mapping[str, int]
    collectives: tuple[CollectiveSummary, ...] | None
    placement: tuple[ParamPlacement, ...]
    compile_seconds: float

    @property
    def memory_total(self) -> int:
        """Bytes on one device, all uses together."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether a step fits in a device's memory; None if the memory is unknown."""
        if self.collectives is None:
            return False
        return None if self.memory_limit is None else self.memory_total <= self.memory_limit

    def throughput(self, utilisation: float) -> dict[str, float]:
        """Examples, and tokens, per second at this MFU, within all `lower_bounds`."""
        matmul = self.lower_bounds.get("matmul", math.inf) / utilisation
        seconds = max(matmul, *self.lower_bounds.values(), 0.0)
        return {unit: count / seconds for unit, count in self.per_step.items()}

    def to_json(self) -> dict[str, Any]:
        """The fields, `memory_total`, `fits` and `throughput` by utilisation, as plain values."""
        return {
            **dataclasses.asdict(self),
            "memory_total": self.memory_total,
            "fits": self.fits,
            "throughput": {f"{u:.0%}": self.throughput(u) for u in UTILISATIONS},
        }


def plan(step: Any, state: Any, example: Mapping[str, Any], mesh: Mesh, target: Target) -> Plan:
    """Compile a training step ahead of time and return its `Plan`.

    Args:
        step: a jitted function of (state, batch), such as `train.jit_step` makes.
        state: shapes, dtypes and shardings, as `train.abstract_state` makes them.
        example: a batch's shapes and dtypes.
        mesh: of the target's devices.
        target: the devices to compile for.
    """
    batch = abstract_batch(example, mesh)
    counted = flops.count(step, state, batch)
    lowered = step.lower(state, batch)
    begun = time.perf_counter()
    compiled = compile_step(lowered, _held(state, batch), target)
    seconds = time.perf_counter() - begun
    # XLA compiles products with a single row to something else, which is not counted.
    device_matmul_flops = max(counted.matmul // mesh.size, compiled.device_matmul_flops or 0)
    return Plan(
        target=target.name,
        devices=mesh.size,
        chip=target.chip and target.chip.name,
        mesh=dict(mesh.shape),
        parameters=tree.parameter_count(state.params),
        memory=compiled.memory,
        memory_limit=compiled.memory_limit,
        flops=counted.total,
        matmul_flops=counted.matmul,
        device_matmul_flops=None if compiled.device_matmul_flops is None else device_matmul_flops,
        uncounted=counted.uncounted + compiled.uncounted,
        lower_bounds=_lower_bounds(
            device_matmul_flops, compiled.memory, compiled.collectives, target
        ),
        per_step=_per_step(example),
        collectives=compiled.collectives,
        placement=tuple(_param_placement(*named) for named in tree.named_leaves(state.params)),
        compile_seconds=seconds,
    )


def _held(state: Any, batch: Any) -> dict[str, int]:
    """Bytes on one device of a step's arguments, by use."""
    parts = {
        "params": state.params,
        "optimizer": state.opt_state,
        "other state": state.collections,
        "batch": batch,
    }
    return {name: sum(map(_shard_bytes, jax.tree.leaves(part))) for name, part in parts.items()}


def _param_placement(path: str, leaf: Any) -> ParamPlacement:
    spec = tuple(leaf.sharding.spec)
    axes = leaf.sharding.mesh.shape
    missing = {"fsdp", "tensor"} - set(jax.tree.leaves(spec)) if leaf.size >= FSDP_MIN_SIZE else ()
    undivided = tuple(axis for axis in axes if axis in missing and axes[axis] > 1)
    return ParamPlacement(path, leaf.shape, spec, _shard_bytes(leaf), undivided)


def _shard_bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _lower_bounds(
    matmul_flops: int,
    memory: Mapping[str, int],
    collectives: tuple[CollectiveSummary, ...] | None,
    target: Target,
) -> dict[str, float]:
    chip = target.chip
    if chip is None:
        return {}
    state = memory["params"] + memory["optimizer"] + memory["other state"]
    bounds = {
        "matmul": matmul_flops / chip.flops,
        "memory": (2 * state + memory["batch"]) / chip.bandwidth,
    }
    if collectives is not None:
        bounds["network"] = sum(part.bytes for part in collectives) / chip.interconnect
    return bounds


def _per_step(example: Mapping[str, Any]) -> dict[str, int]:
    """Examples of a batch, and its tokens: those that are predicted."""
    first = next(iter(example.values()))
    counts = {"examples": first.shape[0]}
    for name, fewer in ("targets", 0), ("target", 1):
        if name in example and len(example[name].shape) == 2:
            B, T = example[name].shape
            counts["tokens"] = B * (T - fewer)
    return counts
