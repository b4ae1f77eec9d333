"""What a compiled training step tells of memory, time and traffic."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from jaxmodels import flops, tree
from jaxmodels.plan import collectives
from jaxmodels.plan.target import Target
from jaxmodels.sharding import abstract_batch
from jaxmodels.sharding.rules import FSDP_MIN_SIZE

UTILISATIONS = 0.4, 0.6


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where a parameter is: `spec` names each dimension's axis, `bytes` are a device's share.

    It is `undivided` if the mesh has an axis to split it by, and it is large, but whole.
    """

    path: str
    shape: tuple[int, ...]
    spec: tuple[Any, ...]
    bytes: int
    undivided: bool


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
        uncounted: what the count is too low for.
        bounds: seconds that a step takes at least: for its products at the chip's peak, for
            reading its arguments and writing its results once, for its collectives at the
            interconnect's full rate.
        per_step: examples, and tokens where there are some.
        traffic: the collectives of a step.
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
    uncounted: tuple[str, ...]
    bounds: Mapping[str, float]
    per_step: Mapping[str, int]
    traffic: tuple[collectives.Collective, ...]
    placement: tuple[Placed, ...]
    compilation: float

    @property
    def total(self) -> int:
        """Bytes on one device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether a device's memory holds it; None if that is unknown."""
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
    with _uncached():
        compiled = lowered.compile()
    seconds = time.perf_counter() - begun
    memory = _memory(compiled.memory_analysis(), state, batch)
    traffic = tuple(collectives.found(compiled.as_text()))
    return Plan(
        target=target.name,
        devices=mesh.size,
        chip=target.chip and target.chip.name,
        mesh=dict(mesh.shape),
        parameters=tree.count(state.params),
        memory=memory,
        limit=target.chip and target.chip.memory,
        flops=counted.total,
        matmul=counted.matmul,
        uncounted=counted.unknown,
        bounds=_bounds(counted.matmul / mesh.size, memory, traffic, target),
        per_step=_per_step(example),
        traffic=traffic,
        placement=tuple(_placed(*named) for named in tree.named_leaves(state.params)),
        compilation=seconds,
    )


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Without the persistent cache: what is there for absent devices cannot be read back."""
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else jax has settled on using one
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _memory(analysis: Any, state: Any, batch: Any) -> dict[str, int]:
    """Bytes on one device. What the compiler pads arguments by counts as temporary."""
    parts = {
        "params": state.params,
        "optimizer": state.opt_state,
        "other state": state.collections,
        "batch": batch,
    }
    held = {name: sum(map(_share, jax.tree.leaves(part))) for name, part in parts.items()}
    whole = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    held["temporaries"] = max(0, whole - sum(held.values()))
    return {**held, "program": analysis.generated_code_size_in_bytes}


def _placed(path: str, leaf: Any) -> Placed:
    spec = tuple(leaf.sharding.spec)
    splits = leaf.sharding.mesh.shape.get("fsdp", 1) > 1 and leaf.size >= FSDP_MIN_SIZE
    return Placed(path, leaf.shape, spec, _share(leaf), undivided=splits and not any(spec))


def _share(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _bounds(
    products: float,
    memory: Mapping[str, int],
    traffic: tuple[collectives.Collective, ...],
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
    if chip.interconnect:
        # Around a ring, a sum is scattered and then gathered: it passes twice.
        sent = sum((2 if part.kind == "all-reduce" else 1) * part.bytes for part in traffic)
        bounds["network"] = sent / chip.interconnect
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
