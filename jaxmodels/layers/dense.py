"""Dense layers of sequences, as fast on a CPU as on one long batch."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.kernels.flat_dot_general import flat_dot_general
from jaxmodels.typing import Array


def float32_dot_general(
    x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None
) -> Array:
    """`flat_dot_general` with results in float32, unless the operands are longer."""
    wide = jnp.promote_types(jnp.promote_types(x.dtype, kernel.dtype), jnp.float32)
    return flat_dot_general(x, kernel, dimension_numbers, precision, wide)


Dense = functools.partial(nn.Dense, dot_general=flat_dot_general)
DenseGeneral = functools.partial(nn.DenseGeneral, dot_general=flat_dot_general)
OutputDense = functools.partial(nn.Dense, dot_general=float32_dot_general)
"""For logits and parameters of distributions: float32 outputs of bfloat16 inputs, not rounded."""


def project(x: Float[Array, "B T D"], embedding: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Logits by a tied embedding, in float32 or longer: x @ embedding.T."""
    return float32_dot_general(x, embedding.T, (((x.ndim - 1,), (0,)), ((), ())))
