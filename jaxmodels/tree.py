"""Pytrees with named leaves, such as `Dense_0/kernel`: map by path, decay mask, counts."""

from collections.abc import Callable
from typing import Any

import jax

NO_DECAY = frozenset({"bias", "scale"})
"""Names of params that weight decay leaves out."""


def name(path: tuple[Any, ...]) -> str:
    """A leaf's key path as text, joined by `/`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree in order, each with its path as text."""
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_named(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    """`jax.tree_util.tree_map_with_path`, with the path as text."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(name(path), leaf), tree)


def decay_mask(params: Any) -> Any:
    """The mask for weight decay and penalties: False for biases and scales of norms, else True.

    By name, not by rank: the bias of a stack of layers under `nn.scan` is a matrix.
    """
    return map_named(lambda path, _: path.rsplit("/", 1)[-1] not in NO_DECAY, params)


def parameter_count(params: Any) -> int:
    """The number of parameters: of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
