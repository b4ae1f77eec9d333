"""Trace every model of `contract.table` with 64-bit types enabled; `test_x64` runs this.

With float32 params and inputs everything stays float32; in float64 outputs and gradients are
float64. A scan whose carry changes its type fails when it is traced, so that nothing need be
compiled; with the argument `run` the gradients are computed too.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
from contract import table

from jaxmodels.kernels import conv
from jaxmodels.kernels.rnn_scan import ScanOptions
from jaxmodels.layers.cells import LSTM

key = jax.random.key(0)


def check(name, case, dtype, run):
    """Compare the types of outputs, collections and gradients with `dtype`."""

    def convert(tree):
        return jax.tree.map(
            lambda x: jnp.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype),
            tree,
        )

    inputs = convert(case.inputs)
    rngs = {"params": key, "dropout": key, "sample": key}
    options = {"mutable": ["batch_stats"], **dict(case.options)}

    def loss(params, rest):
        outputs, changed = case.model.apply(
            {"params": params, **rest}, *inputs, train=True, rngs=rngs, **options
        )
        return sum(jnp.sum(x) for x in jax.tree.leaves(outputs)), (outputs, changed)

    def everything():
        variables = case.model.init(rngs, *inputs)
        made = {str(leaf.dtype) for leaf in jax.tree.leaves(variables)}
        assert made == {"float32"}, f"init makes {made}"
        grads, outputs = jax.grad(loss, has_aux=True)(convert(variables.pop("params")), variables)
        return grads, *outputs

    trees = jax.jit(everything)() if run else jax.eval_shape(everything)
    wanted = jnp.dtype(dtype).name
    # Statistics are sums in float32, or in the type of what is summed.
    for what, tree in zip(("gradients", "outputs", "statistics"), trees, strict=True):
        types = {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}
        assert types <= {wanted} or (what == "statistics" and wanted == "float64"), (
            f"{what} of {name} are {types}, not {wanted}"
        )
        assert not run or all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)), what


def check_gradients():
    """Compare gradients of custom rules in float64 with XLA's own: to float64's precision."""
    x = jax.random.normal(key, (4, 6, 6, 8), jnp.float64)
    kernel = jax.random.normal(key, (3, 3, 8, 5), jnp.float64)

    def loss(convolve, x, kernel):
        return jnp.sum(convolve(x, kernel, (1, 1), "SAME", dimension_numbers=conv.DIMENSIONS) ** 2)

    ours, native = (
        jax.grad(functools.partial(loss, convolve), (0, 1))(x, kernel)
        for convolve in (conv.conv_general_dilated, jax.lax.conv_general_dilated)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-9), ours, native)

    def total(recurrent):
        stream = jax.random.normal(key, (5, 2, 12), jnp.float64)
        state = (jnp.zeros((2, 3), jnp.float64),) * 2
        outputs, _ = LSTM().run(stream, recurrent, None, state, ScanOptions())
        return jnp.sum(outputs**2)

    jax.test_util.check_grads(
        total, (jax.random.normal(key, (3, 12), jnp.float64),), order=1, modes=["rev"], rtol=1e-7
    )


check_gradients()
failed = 0
for name, case in table().items():
    for dtype in (jnp.float32, jnp.float64):
        try:
            check(name, case, dtype, "run" in sys.argv)
        except Exception as error:
            failed += 1
            print(f"{name}, {jnp.dtype(dtype).name}: {type(error).__name__}: {str(error)[:600]}")
    jax.clear_caches()
sys.exit(failed > 0)
