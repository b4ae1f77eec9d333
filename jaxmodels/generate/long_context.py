"""Texts of any length, of a model whose context has an end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxmodels.errors import UserError
from jaxmodels.generate.samplers import Sampler, temperature
from jaxmodels.generate.sampling import sample
from jaxmodels.typing import Array, Key, Model


def generate(
    model: Model,
    variables: Any,
    prompt: Int[Array, "B T"],
    length: int,
    key: Key,
    sampler: Sampler,
) -> Int[Array, "B length"]:
    """`sample` for any length: beyond the context the model goes on from the last half of it.

    So it always looks back on half a context at least. Raises `UserError` for a prompt that does
    not fit in that half.
    """
    context = getattr(model, "context", None)
    if context is None or prompt.shape[1] + length <= context:
        return sample(model, variables, prompt, length, key, sampler)
    half = context // 2
    if not 0 < prompt.shape[1] <= half:
        raise UserError(
            f"To write beyond a context of {context} tokens a prompt has 1 to {half}, half of it; "
            f"got {prompt.shape[1]}."
        )
    text = prompt
    while text.shape[1] < prompt.shape[1] + length:
        seen = text[:, -half:]
        more = sample(
            model,
            variables,
            seen,
            context - seen.shape[1],
            jax.random.fold_in(key, text.shape[1]),
            sampler,
        )
        text = jnp.concatenate([text, more], axis=1)
    return text[:, prompt.shape[1] :][:, :length]


def writer(
    model: Model, prompt: Any, length: int = 400, rows: int = 2
) -> Callable[[Any, float], Int[Array, "rows length"]]:
    """Make `(variables, temperature) -> ids`, of texts that go on from the ids of a prompt."""
    start = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32)[None], (rows, len(prompt)))

    def draw(variables: Any, t: float) -> Int[Array, "rows length"]:
        return generate(model, variables, start, length, jax.random.key(0), temperature(t))

    return draw
