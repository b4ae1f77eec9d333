"""Incremental decoding: how a model reads a few tokens at a time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from jaxmodels.adapters.stateful import Stateful, cast_like, initial_carry
from jaxmodels.errors import UserError
from jaxmodels.typing import CARRY, Array, Model

Tokens = Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IncrementalDecoder:
    """A model that reads tokens where its last call ended, and what it reads besides them.

    Its state is a collection whose leaves are (B, ...) and begin as zeros; the model is called with
    the collection's name as an argument that is true. For Transformers that is `cache`, which their
    attribute `state_collection` says; for recurrent networks it is `carry`.

    A pytree of `memory`, whose leaves are (B, ...). Anything with `start`, `step`, `context`,
    `vocab_size` and `memory` can be used in its place.

    Attributes:
        model: gives logits (B, T, V).
        method: the method to call, if not the model itself.
        memory: its arguments after the tokens.
    """

    model: Model = dataclasses.field(metadata={"static": True})
    method: str | None = dataclasses.field(default=None, metadata={"static": True})
    memory: tuple[Any, ...] = ()

    @property
    def context(self) -> int | None:
        """The longest sequence that the model can read; None if it has no attribute `context`."""
        return getattr(self.model, "context", None)

    @property
    def vocab_size(self) -> int | None:
        """How many tokens the model knows; None if it has no attribute `vocab_size`."""
        return getattr(self.model, "vocab_size", None)

    def start(self, rows: int, capacity: int) -> Any:
        """The state before the first token, for `rows` sequences of at most `capacity` tokens."""
        keys = {name: jax.random.key(0) for name in ("params", "dropout", "sample")}
        tokens = jnp.zeros((rows, capacity), jnp.int32)
        return initial_carry(
            lambda: self.model.init(keys, tokens, *self.memory, **self._arguments), self._collection
        )

    def step(
        self, variables: Any, state: Any, tokens: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B V"], Any]:
        """Read tokens: the logits of what follows the last one, and the new state."""
        name = self._collection
        logits, collections = self.model.apply(
            {**variables, name: state}, tokens, *self.memory, mutable=[name], **self._arguments
        )
        return logits[:, -1].astype(jnp.float32), cast_like(collections[name], state)

    @property
    def _collection(self) -> str:
        return getattr(self.model, "state_collection", CARRY)

    @property
    def _arguments(self) -> dict[str, Any]:
        method = {} if self.method is None else {"method": self.method}
        return {self._collection: True, **method}


def causal(model: Model) -> IncrementalDecoder:
    """The decoder of a language model; of a `Stateful` one its model, whose carry begins anew."""
    return IncrementalDecoder(model.model if isinstance(model, Stateful) else model)


def conditional(model: Model, memory: Any) -> IncrementalDecoder:
    """The decoder of an encoder-decoder; `memory` is what its method `encode` returned."""
    return IncrementalDecoder(model, "decode", (memory,))


def check_prompt(decoder: Any, prompt: Tokens, length: int) -> None:
    """Raise `UserError` for a prompt that cannot be continued by `length` tokens.

    It is integers (B, T), not empty, of the model's vocabulary; all tokens fit into its context.
    """
    if prompt.ndim != 2 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise UserError(
            f"A prompt is integers (B, T); got {prompt.dtype} of shape {prompt.shape}. "
            "A single one is `tokens[None]`."
        )
    if prompt.shape[1] < 1:
        raise UserError(
            "The prompt is empty: a model needs a token to start from, such as the end of a line."
        )
    if length < 1:
        raise UserError(f"The length is how many tokens to add, from 1 up; got {length}.")
    check_token_ids(prompt, decoder.vocab_size)
    total, context = prompt.shape[1] + length, decoder.context
    if context is not None and total > context:
        raise UserError(
            f"A prompt of {prompt.shape[1]} tokens and {length} more make {total}; the model's "
            f"context is {context}. Shorten the prompt or the length."
        )


def check_token_ids(tokens: Tokens, vocab_size: int | None) -> None:
    """Raise `UserError` for ids outside 0 to vocab_size - 1; traced ones are not checked."""
    if vocab_size is None or isinstance(tokens, Tracer) or tokens.size == 0:
        return
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= vocab_size:
        raise UserError(
            f"The tokens are {lowest} to {highest}; the model knows 0 to {vocab_size - 1}. "
            "Encode with the vocabulary that it was trained with."
        )


def check_not_nan(is_nan: Array) -> None:
    """Raise `UserError` where a loop ended because logits were NaN; waits for its result."""
    if not isinstance(is_nan, Tracer) and bool(is_nan):
        raise UserError(
            "The model's logits are NaN, so no token can be chosen. Look for NaN among its params: "
            "the training may have diverged."
        )
