"""Placement by path rules, outside the models.

A rule is a function `(path, leaf, mesh) -> PartitionSpec` of a leaf's name, such as
`params/Dense_0/kernel`, its shape, and the mesh.
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
"""Leaves of fewer scalars are replicated: gathering them costs more than they take."""


def replicate(path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
    """Every device holds the whole leaf."""
    del path, leaf, mesh
    return PartitionSpec()


def fsdp(path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
    """Splits the largest dimension that the axis `fsdp` divides; replicates small leaves.

    On a mesh without that axis it is `replicate`. Zhao et al. 2023, "PyTorch FSDP"; Rajbhandari
    et al. 2020, "ZeRO", stage 3.
    """
    del path
    return _split_largest(leaf, mesh, [None] * leaf.ndim)


@dataclasses.dataclass(frozen=True)
class tensor:  # noqa: N801 - a rule among rules, which are functions
    """Splits over the axis `tensor` the dimension named for a leaf, and over `fsdp` another one.

    Layers whose columns are split are followed by layers whose rows are split, so that there is one
    sum over devices for two layers: Shoeybi et al. 2019, "Megatron-LM", section 3. A dimension that
    the axis does not divide is not split.

    Attributes:
        dims: by pattern, searched in the path: which dimension, counted from the end, since a stack
            of layers has one more in front.
    """

    dims: Mapping[str, int]

    def __call__(self, path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
        """The placement of one leaf."""
        axes: list[str | None] = [None] * leaf.ndim
        dim = next((dim for pattern, dim in self.dims.items() if re.search(pattern, path)), None)
        if dim is not None and leaf.ndim >= -dim and leaf.shape[dim] % _size(mesh, "tensor") == 0:
            axes[dim] = "tensor" if _size(mesh, "tensor") > 1 else None
        return _split_largest(leaf, mesh, axes)

    def check(self, paths: list[str]) -> None:
        """Raise `UserError` for a pattern that no path has."""
        _check_patterns(self.dims, paths)


@dataclasses.dataclass(frozen=True)
class match:  # noqa: N801 - a rule among rules, which are functions
    """The spec of the first pattern that `re.search` finds in the path, else `otherwise`.

    `match({"Dense_0/kernel$": PartitionSpec(None, "tensor")}, otherwise=fsdp)`.
    """

    patterns: Mapping[str, PartitionSpec]
    otherwise: Rule = replicate

    def __call__(self, path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
        """The placement of one leaf."""
        for pattern, spec in self.patterns.items():
            if re.search(pattern, path):
                return spec
        return self.otherwise(path, leaf, mesh)

    def check(self, paths: list[str]) -> None:
        """Raise `UserError` for a pattern that no path has."""
        _check_patterns(self.patterns, paths)
        _check(self.otherwise, paths)


def place(shapes: Any, mesh: Mesh, rule: Rule) -> Any:
    """The tree of `NamedSharding` that `rule` gives for a tree of shapes.

    Raises:
        UserError: a pattern matches nothing, or a spec does not fit its leaf.
    """
    _check(rule, [path for path, _ in tree.named_leaves(shapes)])

    def sharding(path: str, leaf: Any) -> NamedSharding:
        if path.startswith(f"collections/{CARRY}/"):
            placed = batch_sharding(mesh)  # it has a row for each of the batch's
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
    """These axes, and `fsdp` for the largest of the other dimensions that it divides."""
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


def shardings(arrays: Any) -> Any:
    """The sharding of every leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, arrays)
