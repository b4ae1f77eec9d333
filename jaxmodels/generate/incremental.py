"""How a model goes on by some tokens: the one thing that a decoding loop asks of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from jaxmodels.adapters.stateful import cast_like, initial_carry
from jaxmodels.errors import UserError
from jaxmodels.typing import CARRY, Array, Model

Tokens = Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IncrementalDecoder:
    """A model whose state is the collection `carry`, and what it looks at besides its tokens.

    A pytree of `memory`, whose leaves are (B, ...). Anything with `start`, `step`, `context`,
    `vocab_size` and `memory` will do in its place.
    """

    model: Model = dataclasses.field(metadata={"static": True})
    method: str | None = dataclasses.field(default=None, metadata={"static": True})
    memory: tuple[Any, ...] = ()

    @property
    def context(self) -> int | None:
        """The longest sequence that the model can read; None if it says none."""
        return getattr(self.model, "context", None)

    @property
    def vocab_size(self) -> int | None:
        """How many tokens the model knows; None if it says nothing."""
        return getattr(self.model, "vocab_size", None)

    def start(self, rows: int, capacity: int) -> Any:
        """Make the carry at the beginning of `rows` sequences of at most `capacity` tokens."""
        keys = {name: jax.random.key(0) for name in ("params", "dropout", "sample")}
        tokens = jnp.zeros((rows, capacity), jnp.int32)
        return initial_carry(
            lambda: self.model.init(keys, tokens, *self.memory, carry=True, **self._method)
        )

    def step(
        self, variables: Any, carry: Any, tokens: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B V"], Any]:
        """Read tokens; give the logits of the one that follows the last, and the new carry."""
        logits, collections = self.model.apply(
            {**variables, CARRY: carry},
            tokens,
            *self.memory,
            carry=True,
            mutable=[CARRY],
            **self._method,
        )
        return logits[:, -1].astype(jnp.float32), cast_like(collections[CARRY], carry)

    @property
    def _method(self) -> dict[str, str]:
        return {} if self.method is None else {"method": self.method}


def causal(model: Model) -> IncrementalDecoder:
    """A language model."""
    return IncrementalDecoder(model)


def conditional(model: Model, memory: Any) -> IncrementalDecoder:
    """The decoder of an encoder-decoder; `memory` is what its `encode` returned."""
    return IncrementalDecoder(model, "decode", (memory,))


def check_prompt(decoder: Any, prompt: Tokens, length: int) -> None:
    """Raise `UserError` for what no loop can begin with or a model cannot hold."""
    if prompt.ndim != 2 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise UserError(
            f"A prompt is integers (B, T); got {prompt.dtype} of shape {prompt.shape}. "
            "A single one is `tokens[None]`."
        )
    if prompt.shape[1] < 1:
        raise UserError(
            "The prompt is empty: a model needs a token to go on from, such as the end of a line."
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
    """Raise `UserError` for ids outside 0..vocab_size - 1; traced ones are not looked at."""
    if vocab_size is None or isinstance(tokens, Tracer) or tokens.size == 0:
        return
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= vocab_size:
        raise UserError(
            f"The tokens are {lowest} to {highest}; the model knows 0 to {vocab_size - 1}. "
            "Encode with the vocabulary that it was trained with."
        )
