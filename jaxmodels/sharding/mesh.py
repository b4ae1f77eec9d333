"""Meshes, written as text: `data=4,fsdp=2`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels.typing import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def mesh(spec: str = "data=-1", devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices, or those given; `-1` stands for what the other axes leave.

    `data` splits the batch; `fsdp` splits the batch and, by the rule of that name, params and
    optimizer state; `tensor` is there for rules of your own.

    Raises:
        UserError: an unknown or doubled axis, a size that is no number, or sizes whose product is
            not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _fill(_parse(spec), len(devices), spec)
    # From jax 0.11 on the default is Explicit axes, in which stock Linen layers fail.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes of this mesh that split a batch."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """The sharding of a batch whose axis B comes after `leading` others."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, batch_axes(mesh)))


def _parse(spec: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in spec.split(","):
        axis, _, size = (text.strip() for text in part.partition("="))
        if axis not in AXES:
            raise UserError(
                f"mesh {spec!r}: unknown axis {axis!r}; the axes are {', '.join(AXES)}, "
                "written as data=4,fsdp=2"
            )
        if axis in sizes:
            raise UserError(f"mesh {spec!r}: the axis {axis!r} is there twice")
        if not size.removeprefix("-").isdigit() or (int(size) < 1 and int(size) != -1):
            raise UserError(
                f"mesh {spec!r}: the size of {axis!r} is {size!r}; expected a positive number, "
                "or -1 for the devices that the other axes leave"
            )
        sizes[axis] = int(size)
    return sizes


def _fill(sizes: dict[str, int], count: int, spec: str) -> dict[str, int]:
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise UserError(f"mesh {spec!r}: -1 may stand once, not for {' and '.join(open_axes)}")
    known = math.prod(size for size in sizes.values() if size != -1)
    if count % known or (known != count and not open_axes):
        raise UserError(
            f"mesh {spec!r}: the sizes make {known}, and there are {count} devices; "
            "choose sizes whose product is the number of devices, or write -1 for one of them"
        )
    return {axis: count // known if size == -1 else size for axis, size in sizes.items()}
