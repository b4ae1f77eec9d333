"""Dense layers of sequences, as fast on a CPU as on one long batch."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.typing import Array, UserError


def flat_dot_general(
    x: Array,
    kernel: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """`jax.lax.dot_general` of the last axes of x with the first of a kernel, as one product.

    The kernel's gradient contracts all other axes of x. XLA's CPU compiler transposes operands
    that are contracted over several axes, and computes again, element by element, whatever it
    fused into them: an MLP with GELU took three times as long.
    """
    (contracted, from_kernel), batched = dimension_numbers
    n = len(contracted)
    last, first = tuple(range(x.ndim - n, x.ndim)), tuple(range(n))
    if (tuple(contracted), tuple(from_kernel)) != (last, first) or any(batched):
        raise UserError(f"flat_dot_general contracts last with first axes, not {dimension_numbers}")
    size = math.prod(kernel.shape[:n])
    product = jax.lax.dot_general(
        x.reshape(-1, size),
        kernel.reshape(size, -1),
        (((1,), (0,)), ((), ())),
        precision,
        preferred_element_type,
    )
    return product.reshape(*x.shape[:-n], *kernel.shape[n:])


Dense = functools.partial(nn.Dense, dot_general=flat_dot_general)
DenseGeneral = functools.partial(nn.DenseGeneral, dot_general=flat_dot_general)


def project(x: Float[Array, "B T D"], embedding: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Logits by a tied embedding, in float32: x @ embedding.T."""
    B, T, D = x.shape
    flat = x.reshape(B * T, D)
    logits = jnp.einsum("TD,VD->TV", flat, embedding, preferred_element_type=jnp.float32)
    return logits.reshape(B, T, -1)
