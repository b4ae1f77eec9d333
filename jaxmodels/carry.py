"""Models of sequences: what they read, and a state that goes on from batch to batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxmodels.typing import CARRY, Array, Batch, Model


def token_inputs(batch: Batch) -> tuple[Any, ...]:
    """What a model of sequences reads: `tokens`, and `segments` where the rows are packed."""
    return tuple(batch[name] for name in ("tokens", "segments") if name in batch)


def carried_inputs(batch: Batch) -> tuple[Any, ...]:
    """What `Carried` reads: `tokens`, and `first`, true where a row begins anew."""
    return batch["tokens"], batch["first"]


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
        # A shorter type of computing must not change the type of what is kept.
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), collections[CARRY], before)
        return outputs, {**collections, CARRY: after}


def _from_zero(leaf: Array, first: Array) -> Array:
    shape = first.shape + (1,) * (leaf.ndim - 1)
    return jnp.where(first.reshape(shape), jnp.zeros_like(leaf), leaf)
