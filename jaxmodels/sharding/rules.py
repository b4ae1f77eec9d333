"""Placement by path rules, outside the models.

A rule is a function `(path, leaf, mesh) -> PartitionSpec` of a leaf's name, such as
`params/Dense_0/kernel`, its shape, and the mesh.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels import tree
from jaxmodels.sharding.mesh import batch_sharding
from jaxmodels.typing import CARRY, UserError

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
    size = mesh.shape.get("fsdp", 1)
    dims = [(dim, -i) for i, dim in enumerate(leaf.shape) if dim % size == 0]
    if size == 1 or leaf.size < FSDP_MIN_SIZE or not dims:
        return PartitionSpec()
    _, negative = max(dims)
    return PartitionSpec(*[None] * -negative, "fsdp")


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
        for pattern in self.patterns:
            if not any(re.search(pattern, path) for path in paths):
                raise UserError(
                    f"the placement pattern {pattern!r} matches no leaf; the leaves are "
                    + ", ".join(paths[:20])
                    + (" ..." if len(paths) > 20 else "")
                )


def place(shapes: Any, mesh: Mesh, rule: Rule) -> Any:
    """The tree of `NamedSharding` that `rule` gives for a tree of shapes.

    Raises:
        UserError: a pattern matches nothing, or a spec does not fit its leaf.
    """
    if isinstance(rule, match):
        rule.check([path for path, _ in tree.named_leaves(shapes)])

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


def shardings(arrays: Any) -> Any:
    """The sharding of every leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, arrays)
