"""Dense layers of sequences, as fast on a CPU as on one long batch."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.kernels.flat_dot_general import flat_dot_general
from jaxmodels.typing import Array

Dense = functools.partial(nn.Dense, dot_general=flat_dot_general)
DenseGeneral = functools.partial(nn.DenseGeneral, dot_general=flat_dot_general)


def project(x: Float[Array, "B T D"], embedding: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Logits by a tied embedding, in float32: x @ embedding.T."""
    kernel_last = ((x.ndim - 1,), (0,)), ((), ())
    return flat_dot_general(x, embedding.T, kernel_last, preferred_element_type=jnp.float32)
