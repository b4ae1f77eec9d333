"""Leaves of a pytree by name: `Dense_0/kernel`."""

from collections.abc import Callable
from typing import Any

import jax

NOT_WEIGHTS = frozenset({"bias", "scale"})


def name(path: tuple[Any, ...]) -> str:
    """A leaf's key path as text, its parts joined by `/`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves in order, each with its name."""
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_named(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    """`jax.tree.map` that also passes each leaf's name."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(name(path), leaf), tree)


def decay_mask(params: Any) -> Any:
    """The mask that decay and penalties use: True but for biases and for the scales of norms.

    It goes by name, not by rank: the bias of a stack of layers under `nn.scan` is a matrix.
    """
    return map_named(lambda path, _: path.rsplit("/", 1)[-1] not in NOT_WEIGHTS, params)


def parameter_count(params: Any) -> int:
    """The number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
