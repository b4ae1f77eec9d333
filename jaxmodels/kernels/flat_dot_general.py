"""Dot product of a sequence's features with a kernel, as one flat matrix product on a CPU."""

import functools
import math
from typing import Any

import jax

from jaxmodels.errors import UserError
from jaxmodels.typing import Array


def flat_dot_general(
    x: Array,
    kernel: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """`jax.lax.dot_general` of the last axes of x with the first of a kernel; on a CPU one product.

    The kernel's gradient contracts all other axes of x. XLA's CPU compiler transposes operands
    that are contracted over several axes, and computes again, element by element, whatever it
    fused into them: an MLP with GELU took three times as long. Elsewhere x keeps its axes: two
    that are both split over devices cannot be one without being gathered.
    """
    (contracted, from_kernel), batched = dimension_numbers
    n = len(contracted)
    last, first = tuple(range(x.ndim - n, x.ndim)), tuple(range(n))
    if (tuple(contracted), tuple(from_kernel)) != (last, first) or any(batched):
        raise UserError(f"flat_dot_general contracts last with first axes, not {dimension_numbers}")
    product = functools.partial(
        jax.lax.dot_general, precision=precision, preferred_element_type=preferred_element_type
    )

    def native(x: Array, kernel: Array) -> Array:
        return product(x, kernel, ((last, first), ((), ())))

    def flat(x: Array, kernel: Array) -> Array:
        size = math.prod(kernel.shape[:n])
        rows, columns = x.reshape(-1, size), kernel.reshape(size, -1)
        y = product(rows, columns, (((1,), (0,)), ((), ())))
        return y.reshape(*x.shape[:-n], *kernel.shape[n:])

    return jax.lax.platform_dependent(x, kernel, cpu=flat, default=native)
