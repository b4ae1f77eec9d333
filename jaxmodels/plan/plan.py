"""What a compiled training step tells of memory, time and traffic."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxmodels import flops, tree
from jaxmodels.plan.collectives import Collective
from jaxmodels.plan.compiler import attempt
from jaxmodels.plan.target import Target
from jaxmodels.sharding import abstract_batch
from jaxmodels.sharding.rules import FSDP_MIN_SIZE

UTILISATIONS = 0.4, 0.6


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where a parameter is: `spec` names each dimension's axis, `bytes` are a device's share.

    `undivided` are the mesh's axes for params that do not split it, although it is large: no rule
    names a dimension for them, or they do not divide it.
    """

    path: str
    shape: tuple[int, ...]
    spec: tuple[Any, ...]
    bytes: int
    undivided: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step will take on devices that are not here.

    Attributes:
        target: as it was asked for.
        devices: how many.
        chip: what each is, None if its figures are unknown.
        mesh: the sizes of its axes.
        parameters: how many there are.
        memory: bytes on one device by what they are for.
        limit: bytes that a device has, None if unknown.
        flops: floating point operations of a step on all devices; `matmul` of them in products.
        matmul: what utilisation counts.
        products: operations in products on one device: as compiled, and at least its share of
            `matmul`; more where an axis of the mesh does not split them.
        uncounted: what the counts are too low for.
        bounds: seconds that a step takes at least: for its products at the chip's peak, for
            reading its arguments and writing its results once, for its collectives at the
            interconnect's full rate; those that are known.
        per_step: examples, and tokens where there are some.
        traffic: the collectives of a step. They and `products` are None if it does not fit and
            the compiler has made no program.
        placement: of each parameter.
        compilation: seconds it took here.
    """

    target: str
    devices: int
    chip: str | None
    mesh: Mapping[str, int]
    parameters: int
    memory: Mapping[str, int]
    limit: int | None
    flops: int
    matmul: int
    products: int | None
    uncounted: tuple[str, ...]
    bounds: Mapping[str, float]
    per_step: Mapping[str, int]
    traffic: tuple[Collective, ...] | None
    placement: tuple[Placed, ...]
    compilation: float

    @property
    def total(self) -> int:
        """Bytes on one device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether a device's memory holds it; None if that is unknown."""
        if self.traffic is None:
            return False
        return None if self.limit is None else self.total <= self.limit

    def rates(self, utilisation: float) -> dict[str, float]:
        """Examples, and tokens, per second at this share of the peak; at most what `bounds` let."""
        products = self.bounds.get("products", math.inf) / utilisation
        seconds = max(products, *self.bounds.values(), 0.0)
        return {unit: count / seconds for unit, count in self.per_step.items()}

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        rates = {f"{u:.0%}": self.rates(u) for u in UTILISATIONS}
        return {**dataclasses.asdict(self), "total": self.total, "fits": self.fits, "rates": rates}


def plan(step: Any, state: Any, example: Mapping[str, Any], mesh: Mesh, target: Target) -> Plan:
    """Compile a step ahead of time, and read off what it takes.

    Args:
        step: a jitted function of (state, batch), such as `train.placed_step` makes.
        state: shapes, dtypes and shardings, as `train.abstract` makes them.
        example: a batch's shapes and dtypes.
        mesh: over the target's devices.
        target: what is compiled for.
    """
    batch = abstract_batch(example, mesh)
    counted = flops.count(step, state, batch)
    lowered = step.lower(state, batch)
    begun = time.perf_counter()
    compiled = attempt(lowered, _held(state, batch), target)
    seconds = time.perf_counter() - begun
    # Products with a single row are none once they are compiled.
    products = max(counted.matmul // mesh.size, compiled.products or 0)
    return Plan(
        target=target.name,
        devices=mesh.size,
        chip=target.chip and target.chip.name,
        mesh=dict(mesh.shape),
        parameters=tree.parameter_count(state.params),
        memory=compiled.memory,
        limit=compiled.limit,
        flops=counted.total,
        matmul=counted.matmul,
        products=None if compiled.products is None else products,
        uncounted=counted.unknown + compiled.unknown,
        bounds=_bounds(products, compiled.memory, compiled.traffic, target),
        per_step=_per_step(example),
        traffic=compiled.traffic,
        placement=tuple(_placed(*named) for named in tree.named_leaves(state.params)),
        compilation=seconds,
    )


def _held(state: Any, batch: Any) -> dict[str, int]:
    """Bytes on one device of what a step is given."""
    parts = {
        "params": state.params,
        "optimizer": state.opt_state,
        "other state": state.collections,
        "batch": batch,
    }
    return {name: sum(map(_share, jax.tree.leaves(part))) for name, part in parts.items()}


def _placed(path: str, leaf: Any) -> Placed:
    spec = tuple(leaf.sharding.spec)
    axes = leaf.sharding.mesh.shape
    missing = {"fsdp", "tensor"} - set(jax.tree.leaves(spec)) if leaf.size >= FSDP_MIN_SIZE else ()
    undivided = tuple(axis for axis in axes if axis in missing and axes[axis] > 1)
    return Placed(path, leaf.shape, spec, _share(leaf), undivided)


def _share(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _bounds(
    products: int,
    memory: Mapping[str, int],
    traffic: tuple[Collective, ...] | None,
    target: Target,
) -> dict[str, float]:
    chip = target.chip
    if chip is None:
        return {}
    state = memory["params"] + memory["optimizer"] + memory["other state"]
    bounds = {
        "products": products / chip.flops,
        "memory": (2 * state + memory["batch"]) / chip.bandwidth,
    }
    if traffic is not None:
        bounds["network"] = sum(part.bytes for part in traffic) / chip.interconnect
    return bounds


def _per_step(example: Mapping[str, Any]) -> dict[str, int]:
    """Examples of a batch; its tokens are those that are predicted."""
    first = next(iter(example.values()))
    counts = {"examples": first.shape[0]}
    for name, fewer in ("targets", 0), ("target", 1):
        if name in example and len(example[name].shape) == 2:
            B, T = example[name].shape
            counts["tokens"] = B * (T - fewer)
    return counts
