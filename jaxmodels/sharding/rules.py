"""Placement rules: how params and optimizer state are sharded, chosen by a leaf's path.

A rule is a function `(path, leaf, mesh) -> PartitionSpec` of a leaf's path, such as
`params/Dense_0/kernel`, its shape, and the mesh. Models do not know the mesh.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.sharding.mesh import batch_sharding
from jaxmodels.typing import CARRY

Rule = Callable[[str, Any, Mesh], PartitionSpec]

FSDP_MIN_SIZE = 4096
"""Leaves with fewer scalars are replicated: gathering them costs more than storing them."""


def replicate(path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
    """Replicate: every device holds the whole leaf (plain data parallelism)."""
    del path, leaf, mesh
    return PartitionSpec()


def fsdp(path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
    """Fully sharded data parallelism: split the largest dimension that the axis `fsdp` divides.

    Leaves below `FSDP_MIN_SIZE`, and all leaves on a mesh without that axis, are replicated.
    Zhao et al. 2023, "PyTorch FSDP"; Rajbhandari et al. 2020, "ZeRO", stage 3.
    """
    del path
    return _split_largest(leaf, mesh, [None] * leaf.ndim)


@dataclasses.dataclass(frozen=True)
class tensor:  # noqa: N801 - a rule among rules, which are functions
    """Tensor parallelism: split a named dimension over `tensor`, and another one over `fsdp`.

    Layers whose columns are split are followed by layers whose rows are split, so that there is one
    sum over devices for two layers: Shoeybi et al. 2019, "Megatron-LM", section 3. A dimension that
    the axis does not divide is not split.

    Attributes:
        dims: regular expression, searched in the path, to the dimension that is split. It is
            negative, since a scanned stack of layers has one more dimension in front.
    """

    dims: Mapping[str, int]

    def __call__(self, path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
        axes: list[str | None] = [None] * leaf.ndim
        dim = next((dim for pattern, dim in self.dims.items() if re.search(pattern, path)), None)
        if dim is not None and leaf.ndim >= -dim and leaf.shape[dim] % _size(mesh, "tensor") == 0:
            axes[dim] = "tensor" if _size(mesh, "tensor") > 1 else None
        return _split_largest(leaf, mesh, axes)

    def check(self, paths: list[str]) -> None:
        """Raise `UserError` for a pattern that matches no path."""
        _check_patterns(self.dims, paths)


@dataclasses.dataclass(frozen=True)
class match:  # noqa: N801 - a rule among rules, which are functions
    """The `PartitionSpec` of the first pattern that `re.search` finds in the path, else `default`.

    `match({"Dense_0/kernel$": PartitionSpec(None, "tensor")}, default=fsdp)`.
    """

    patterns: Mapping[str, PartitionSpec]
    default: Rule = replicate

    def __call__(self, path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
        for pattern, spec in self.patterns.items():
            if re.search(pattern, path):
                return spec
        return self.default(path, leaf, mesh)

    def check(self, paths: list[str]) -> None:
        """Raise `UserError` for a pattern that matches no path."""
        _check_patterns(self.patterns, paths)
        _check(self.default, paths)


def sharding_tree(shapes: Any, mesh: Mesh, rule: Rule) -> Any:
    """The tree of `NamedSharding`s that `rule` gives for a tree of shapes.

    Recurrent state (the collection `carry`) is split as the batch is.

    Raises:
        UserError: a pattern matches no leaf, or a spec does not fit its leaf.
    """
    _check(rule, [path for path, _ in tree.named_leaves(shapes)])

    def sharding(path: str, leaf: Any) -> NamedSharding:
        if path.startswith(f"collections/{CARRY}/"):
            placed = batch_sharding(mesh)
        else:
            placed = NamedSharding(mesh, rule(path, leaf, mesh))
        try:
            placed.shard_shape(leaf.shape)
        except ValueError as error:
            raise UserError(
                f"{path} of shape {leaf.shape} cannot be placed as {placed.spec} "
                f"on the mesh {dict(mesh.shape)}: {error}"
            ) from None
        return placed

    return tree.map_named(sharding, shapes)


def _split_largest(leaf: Any, mesh: Mesh, axes: list[str | None]) -> PartitionSpec:
    """Add `fsdp` to the given axes, for the largest free dimension that it divides."""
    size = _size(mesh, "fsdp")
    free = [(dim, -i) for i, dim in enumerate(leaf.shape) if axes[i] is None and dim % size == 0]
    if size > 1 and leaf.size >= FSDP_MIN_SIZE and free:
        axes[-max(free)[1]] = "fsdp"
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def _size(mesh: Mesh, axis: str) -> int:
    return mesh.shape.get(axis, 1)


def _check(rule: Rule, paths: list[str]) -> None:
    if isinstance(rule, match | tensor):
        rule.check(paths)


def _check_patterns(patterns: Iterable[str], paths: list[str]) -> None:
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(
                f"the placement pattern {pattern!r} matches no leaf; the leaves are "
                + ", ".join(paths[:20])
                + (" ..." if len(paths) > 20 else "")
            )


def current_shardings(arrays: Any) -> Any:
    """The tree of the arrays' current shardings."""
    return jax.tree.map(lambda leaf: leaf.sharding, arrays)
