"""Count floating point operations (FLOPs) of a function from its jaxpr, without compiling it.

XLA's own count (`compiled.cost_analysis()`) needs a compilation, and counts a loop's body once.
Model FLOPs utilisation (MFU) is `matmul` over a chip's peak (Chowdhery et
al. 2022, "PaLM: Scaling language modeling with pathways", appendix B).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARITHMETIC = _names(
    "abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp"
    " cos cosh cumlogsumexp cummax cummin cumprod cumsum digamma div erf erf_inv erfc exp exp2"
    " expm1 floor igamma igamma_grad_a igammac integer_pow lgamma log log1p log2 logistic max min"
    " mul neg nextafter one_minus_square polygamma pow regularized_incomplete_beta rem round rsqrt"
    " sign sin sinh sqrt square sub tan tanh zeta"
)
"""Primitives counted as one operation per element of the output."""

REDUCTIONS = _names("argmax argmin reduce_max reduce_min reduce_prod reduce_sum")
"""Primitives counted as one operation per element of the input."""

WINDOWS = _names("reduce_window_max reduce_window_min reduce_window_sum")
"""Primitives counted as one operation per element of the output and of the window."""

SCATTERS = _names("scatter-add scatter-max scatter-min scatter-mul")
"""Primitives counted as one operation per element of the updates, the third operand."""

FREE = _names(
    "all_gather all_gather_invariant all_to_all bitcast_convert_type broadcast_in_dim complex"
    " concatenate conj convert_element_type copy device_put dynamic_slice dynamic_update_slice"
    " empty empty2 gather get imag iota layout_constraint name optimization_barrier pad pbroadcast"
    " pmax pmin ppermute psum psum_invariant pvary real reduce_precision reduce_scatter reshape"
    " reshard rev rng_uniform scatter select_and_gather_add select_n sharding_constraint slice sort"
    " split squeeze stack stop_gradient swap top_k transpose"
)
"""Primitives that only move data: no FLOPs, like all with integer or boolean results."""

CALLS = _names(
    "call checkpoint closed_call custom_jvp_call custom_vjp_call eval_jaxpr jit pjit remat remat2"
    " run_state"
)
"""Primitives that run the jaxpr in their params once."""


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """The result of `count`.

    Attributes:
        total: floating point operations; a multiply-add counts as two.
        matmul: those in matrix products and convolutions.
        uncounted: operations missing in the count, such as loops of data-dependent length.
    """

    total: int = 0
    matmul: int = 0
    uncounted: tuple[str, ...] = ()

    def __add__(self, other: "FlopCount") -> "FlopCount":
        uncounted = tuple(dict.fromkeys(self.uncounted + other.uncounted))
        return FlopCount(self.total + other.total, self.matmul + other.matmul, uncounted)

    def times(self, n: int) -> "FlopCount":
        """The count of `n` runs."""
        return FlopCount(n * self.total, n * self.matmul, self.uncounted if n else ())


def count(fn: Callable[..., Any], *args: Any) -> FlopCount:
    """Count the floating point operations of `fn(*args)`, on all devices together.

    Args:
        fn: a pure function; may be jitted, may be sharded.
        args: trees of arrays or of `jax.ShapeDtypeStruct`; nothing is computed.

    Dead code is not counted, since XLA removes it. Recomputation by `jax.checkpoint` is: this gives
    hardware FLOPs utilisation (HFU); for MFU, count the same function without it. Products with
    zeros of a causal mask are counted, as in PaLM, where the program makes them: causal attention
    traced for a CPU leaves out most of them (`kernels.blockwise_attention`; 5/8 remain of 256
    tokens). Programs for other platforms are traced under a mesh that names theirs.

    - A matrix product of (M, K) and (K, N): 2 M N K. Operations on integers: none.
    - A convolution: 2 x batch x output features x input features of a group x, for each dimension,
      the product of the two smallest of taps, input and output size. That is taps x output for a
      convolution (padding included, as papers count), taps x input for a transposed one, and the
      same for both gradients.
    - `scan`: its length times. `while`: once, and `uncounted` says so. `cond`: the largest branch.
    - `lax.platform_dependent`: its default branch.
    - `shard_map`: the count of a shard times the number of shards.
    - Other primitives with a jaxpr inside: that jaxpr once. Primitives without a rule: none.
      `uncounted` names both.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(live)


def _of_jaxpr(jaxpr: Any) -> FlopCount:
    return sum((_of_equation(equation) for equation in jaxpr.eqns), FlopCount())


def _of_equation(equation: Any) -> FlopCount:
    name = equation.primitive.name
    if name in CONTROL:
        return CONTROL[name](equation.params)
    if name in MATMULS:
        n = MATMULS[name](equation) if _is_float(equation.outvars[0]) else 0
        return FlopCount(n, n)
    if name in ELEMENTWISE:
        return FlopCount(ELEMENTWISE[name](equation))
    if inside := _jaxprs(equation.params):
        once = sum(map(_of_jaxpr, inside), FlopCount())
        return once + FlopCount(uncounted=(f"{name}: its body was counted once",))
    if name in FREE or not any(map(_is_float, equation.outvars)):
        return FlopCount()
    return FlopCount(uncounted=(f"{name}: not counted",))


def _call(params: dict[str, Any]) -> FlopCount:
    return sum(map(_of_jaxpr, _jaxprs(params)), FlopCount())


def _scan(params: dict[str, Any]) -> FlopCount:
    return _of_jaxpr(params["jaxpr"]).times(params["length"])


def _while(params: dict[str, Any]) -> FlopCount:
    return _call(params) + FlopCount(uncounted=("while: its body was counted once",))


def _cond(params: dict[str, Any]) -> FlopCount:
    platforms = params.get("branches_platforms")
    if platforms is not None:
        default = platforms.index(None) if None in platforms else -1
        return _of_jaxpr(params["branches"][default])
    return max(map(_of_jaxpr, params["branches"]), key=lambda counted: counted.total)


def _shard_map(params: dict[str, Any]) -> FlopCount:
    # Only over the axes that it makes manual; over the others it is a global program.
    shards = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return _of_jaxpr(params["jaxpr"]).times(shards)


CONTROL: dict[str, Callable[[dict[str, Any]], FlopCount]] = {
    **dict.fromkeys(CALLS, _call),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}


def _dot(equation: Any) -> int:
    ((contracted, _), _) = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2 * _size(equation.outvars[0]) * math.prod(lhs[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    numbers = equation.params["dimension_numbers"]
    lhs, rhs = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    batch, features, *sizes = (out[axis] for axis in numbers.out_spec)
    _, group, *taps = (rhs[axis] for axis in numbers.rhs_spec)
    inputs = (lhs[axis] for axis in numbers.lhs_spec[2:])
    # Two of (tap, input, output) determine the third, so the number of products is at most that of
    # the two smallest. A gradient only permutes the three.
    pairs = (math.prod(sorted(three)[:2]) for three in zip(taps, inputs, sizes, strict=True))
    return 2 * batch * features * group * math.prod(pairs)


MATMULS = {"dot_general": _dot, "conv_general_dilated": _convolution}


def _per_output(equation: Any) -> int:
    return sum(_size(variable) for variable in equation.outvars if _is_float(variable))


def _per_operand(equation: Any, operand: int = 0) -> int:
    variable = equation.invars[operand]
    return _size(variable) if _is_float(variable) else 0


def _per_window(equation: Any) -> int:
    return _per_output(equation) * math.prod(equation.params["window_dimensions"])


def _per_source(equation: Any) -> int:
    """Of the gradient of pooling, whose first operand has the shape of the pooled output."""
    return _per_operand(equation) * math.prod(equation.params["window_dimensions"])


def _reduce(equation: Any) -> int:
    return _of_jaxpr(equation.params["jaxpr"]).total * _size(equation.invars[0])


def _reduce_window(equation: Any) -> int:
    taps = math.prod(equation.params["window_dimensions"])
    return _of_jaxpr(equation.params["jaxpr"]).total * _size(equation.outvars[0]) * taps


ELEMENTWISE: dict[str, Callable[[Any], int]] = {
    **dict.fromkeys(ARITHMETIC, _per_output),
    **dict.fromkeys(REDUCTIONS, _per_operand),
    **dict.fromkeys(WINDOWS, _per_window),
    **dict.fromkeys(SCATTERS, lambda equation: _per_operand(equation, 2)),
    "select_and_scatter_add": _per_source,
    "reduce": _reduce,
    "reduce_window": _reduce_window,
}


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """All jaxprs in the params of an equation, also in tuples."""
    values = [
        inner
        for value in params.values()
        for inner in (value if isinstance(value, tuple | list) else (value,))
    ]
    return [getattr(value, "jaxpr", value) for value in values if hasattr(value, "eqns")]


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _is_float(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
