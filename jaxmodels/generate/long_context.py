"""Generation of texts that are longer than the model's context."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxmodels.errors import UserError
from jaxmodels.generate.incremental import Tokens, causal
from jaxmodels.generate.samplers import Sampler, greedy
from jaxmodels.generate.sampling import sample
from jaxmodels.typing import Array, Key, Model


def generate(
    model: Model,
    variables: Any,
    prompt: Int[Tokens, "B T"],
    length: int,
    key: Key,
    sampler: Sampler = greedy,
) -> Int[Array, "B length"]:
    """`sample` for any length: at the end of the context it continues from the last half of it.

    So a token always depends on half a context at least. Raises `UserError` as `sample` does, and
    for a prompt that does not fit into that half.
    """
    context = causal(model).context
    if context is None or prompt.shape[1] + length <= context:
        return sample(model, variables, prompt, length, key, sampler)
    half = context // 2
    if not 0 < prompt.shape[1] <= half:
        raise UserError(
            f"To generate beyond a context of {context} tokens a prompt has 1 to {half}, half of "
            f"it; got {prompt.shape[1]}."
        )
    text = jnp.asarray(prompt, jnp.int32)
    while text.shape[1] < prompt.shape[1] + length:
        last = text[:, -half:]
        own_key = jax.random.fold_in(key, text.shape[1])
        more = sample(model, variables, last, context - last.shape[1], own_key, sampler)
        text = jnp.concatenate([text, more], axis=1)
    return text[:, prompt.shape[1] :][:, :length]
