"""Device meshes from text such as `data=4,fsdp=2`, and the sharding of a batch."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels.errors import UserError
from jaxmodels.typing import BATCH_AXES

AXES = ("data", "fsdp", "tensor", "sequence")
SEQUENCE_FIELDS = frozenset({"tokens", "targets", "segments", "valid", "source", "target"})
"""Batch fields of shape (B, T), whose tokens the axis `sequence` splits."""


def mesh(spec: str = "data=-1", devices: Sequence[Any] | None = None) -> Mesh:
    """A `jax.sharding.Mesh` over all devices, or over those given; -1 infers the size of one axis.

    `data` splits the batch; `fsdp` splits the batch and, by the rule of that name, params and
    optimizer state; `tensor` splits the params whose rule names a dimension for it, and with them
    the work; `sequence` splits the tokens of each row, for long contexts.

    Raises:
        UserError: an unknown or repeated axis, a size that is not a number, or sizes whose product
            is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _fill(_parse(spec), len(devices), spec)
    # From jax 0.11 on the default is Explicit axes, in which stock Linen layers fail.
    types = (AxisType.Auto,) * len(sizes)
    shape, names = tuple(sizes.values()), tuple(sizes)
    try:
        return jax.make_mesh(shape, names, types, devices=devices)
    except NotImplementedError:
        # None of a TPU slice's physical axes has such a size: one of them is split.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(grid, names, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is replicated: every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The names of the mesh axes that split a batch."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def batch_shards(mesh: Mesh) -> int:
    """The number of parts that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """The sharding of a batch whose axis B comes after `leading` others."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, batch_axes(mesh)))


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Set the mesh that `layers.constraints` reads while a model is traced; None sets nothing.

    `jax.sharding.use_abstract_mesh` for a concrete mesh.
    """
    if mesh is None:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def field_sharding(
    name: str, shape: tuple[int, ...], mesh: Mesh, leading: int = 0
) -> NamedSharding:
    """The sharding of one batch field; `SEQUENCE_FIELDS` are also split over `sequence`.

    Their tokens stay whole where the axis `sequence` does not divide them.

    Args:
        name: the field's, such as `tokens`.
        shape: (B, ...), after `leading` other axes.
        mesh: the devices.
        leading: as in `batch_sharding`.
    """
    rows = batch_sharding(mesh, leading)
    tokens = shape[leading + 1 : leading + 2]
    if name not in SEQUENCE_FIELDS or not tokens or tokens[0] % mesh.shape.get("sequence", 1):
        return rows
    sequence = "sequence" if "sequence" in mesh.axis_names else None
    return NamedSharding(mesh, PartitionSpec(*rows.spec, sequence))


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
            raise UserError(f"mesh {spec!r}: the axis {axis!r} is given twice")
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
        raise UserError(f"mesh {spec!r}: only one axis can be -1, not {' and '.join(open_axes)}")
    known = math.prod(size for size in sizes.values() if size != -1)
    if count % known or (known != count and not open_axes):
        raise UserError(
            f"mesh {spec!r}: the product of the sizes is {known}, but there are {count} devices; "
            "choose sizes whose product is the number of devices, or write -1 for one of them"
        )
    return {axis: count // known if size == -1 else size for axis, size in sizes.items()}
