"""Recurrent state that goes on from batch to batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.core.scope import in_filter, union_filters
from jaxtyping import Bool, Integer

from jaxmodels.adapters.base import Adapter
from jaxmodels.errors import UserError
from jaxmodels.typing import CARRY, Array


@dataclasses.dataclass(frozen=True)
class Stateful(Adapter):
    """A recurrent model that continues, row by row, where its last call ended (Keras: stateful).

    The state is the collection `carry`, which objectives, steps and checkpoints treat as they do
    BatchNorm's statistics. No gradient passes through it: training is truncated back-propagation
    through time (Mikolov et al. 2010, "Recurrent neural network based language model").
    A row starts from zeros where `first` is true.
    """

    def init(
        self, rngs: Any, tokens: Integer[Array, "B T"], first: Bool[Array, " B"], **kwargs: Any
    ) -> Any:
        """Make the variables, the carry at zero; `UserError` for a model that has no carry."""
        del first
        try:
            variables = self.model.init(rngs, tokens, carry=True, **kwargs)
        except TypeError as error:
            if "'carry'" not in str(error):
                raise
            raise self._no_state() from error
        if CARRY not in variables:
            raise self._no_state()
        return {**variables, CARRY: jax.tree.map(jnp.zeros_like, variables[CARRY])}

    def apply(
        self,
        variables: Any,
        tokens: Integer[Array, "B T"],
        first: Bool[Array, " B"],
        mutable: Any = False,
        **kwargs: Any,
    ) -> Any:
        """Compute the outputs; the new carry is returned where `mutable` includes it."""
        before = jax.tree.map(lambda leaf: _zero_where(first, leaf), variables[CARRY])
        variables = {**variables, CARRY: before}
        outputs, collections = self.model.apply(
            variables, tokens, carry=True, mutable=union_filters(mutable, CARRY), **kwargs
        )
        if mutable is False:
            return outputs
        carry = cast_like(collections.pop(CARRY), before)
        if in_filter(mutable, CARRY):
            collections[CARRY] = carry
        return outputs, collections

    def _no_state(self) -> UserError:
        return UserError(
            f"{type(self.model).__name__} has no recurrent state to carry from batch to batch. "
            "Truncated back-propagation is for recurrent networks; a Transformer's cache is "
            "bounded by its context: train it on windows (`objectives.next_token`)."
        )


def initial_carry(init: Callable[[], Any], collection: str = CARRY) -> Any:
    """Zeros for the carry of the variables that `init` would make; none of them is computed."""
    shapes = jax.eval_shape(init)[collection]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def cast_like(new: Any, old: Any) -> Any:
    """The leaves of `new` in the dtypes of `old`, such as a carry after a bfloat16 call."""
    return jax.tree.map(lambda leaf, before: leaf.astype(before.dtype), new, old)


def _zero_where(first: Array, leaf: Array) -> Array:
    shape = first.shape + (1,) * (leaf.ndim - 1)
    return jnp.where(first.reshape(shape), jnp.zeros_like(leaf), leaf)
