"""A state of models of sequences that goes on from batch to batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxmodels.typing import CARRY, Array, Model


@dataclasses.dataclass(frozen=True)
class Carried:
    """A sequence model that goes on, row by row, where its last call ended.

    Its state is the collection `carry`, which objectives, steps and checkpoints treat as they do
    BatchNorm's statistics. No gradient passes through it: training is truncated back-propagation
    through time (Mikolov et al. 2010, "Recurrent neural network based language model").
    A row begins anew, from zeros, where `first` is true.
    """

    model: Model

    def init(self, rngs: Any, tokens: Int[Array, "B T"], first: Bool[Array, " B"]) -> Any:
        """Make the variables, the carry at zero."""
        del first
        variables = self.model.init(rngs, tokens, carry=True)
        return {**variables, CARRY: jax.tree.map(jnp.zeros_like, variables[CARRY])}

    def apply(
        self, variables: Any, tokens: Int[Array, "B T"], first: Bool[Array, " B"], **kwargs: Any
    ) -> Any:
        """Compute the outputs; the new carry is returned where `mutable` names it."""
        before = jax.tree.map(lambda leaf: _from_zero(leaf, first), variables[CARRY])
        variables = {**variables, CARRY: before}
        if CARRY not in (kwargs.get("mutable") or ()):
            outputs, _ = self.model.apply(
                variables, tokens, carry=True, **{**kwargs, "mutable": [CARRY]}
            )
            return outputs
        outputs, collections = self.model.apply(variables, tokens, carry=True, **kwargs)
        return outputs, {**collections, CARRY: in_its_types(collections[CARRY], before)}


def fresh(init: Callable[[], Any]) -> Any:
    """The carry, at its beginning, of the variables that `init` makes; none of them is computed."""
    shapes = jax.eval_shape(init)[CARRY]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def in_its_types(new: Any, old: Any) -> Any:
    """A new carry in the old one's types, which a shorter type of computing must not change."""
    return jax.tree.map(lambda leaf, before: leaf.astype(before.dtype), new, old)


def _from_zero(leaf: Array, first: Array) -> Array:
    shape = first.shape + (1,) * (leaf.ndim - 1)
    return jnp.where(first.reshape(shape), jnp.zeros_like(leaf), leaf)
