"""Trace every model of the contracts' tables with 64-bit types enabled; `test_x64` runs this.

With float32 params and inputs everything stays float32; in float64 outputs and gradients are
float64. Nothing is compiled: a scan whose carry changes its type fails when it is traced.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import test_latent_models
import test_models
import test_sequence_models

from jaxmodels.kernels import conv
from jaxmodels.kernels.rnn_scan import ScanOptions
from jaxmodels.layers.cells import LSTM

key = jax.random.key(0)


def cases():
    """Name, model, inputs, keyword arguments."""
    for name, (model, shape) in test_models.TABLE.items():
        yield name, model, (jnp.ones((2, *shape), jnp.float32),), {"mutable": ["batch_stats"]}
    for name, (model, make) in test_sequence_models.TABLE.items():
        inputs = tuple(x.astype(jnp.float32 if x.ndim == 3 else jnp.int32) for x in make())
        yield name, model, inputs, {}
    for name, model in test_latent_models.AUTOENCODERS.items():
        yield name, model, (images(model),), {}
    for name, model in test_latent_models.LATENT.items():
        label = (jnp.zeros(2, jnp.int32),) if name == "conditional" else ()
        yield f"vae {name}", model, (images(model), *label), {"samples": 3}


def images(model):
    H, W, C = model.decoder.image_shape
    P = getattr(getattr(model, "likelihood", None), "parameters", 1)
    return jnp.ones((2, H, W, C // P), jnp.float32)


def check(name, model, inputs, kwargs, dtype):
    """Compare the types of outputs, collections and gradients with `dtype`."""

    def convert(tree):
        return jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )

    inputs = convert(inputs)
    rngs = {"dropout": key, "sample": key}

    def loss(params, rest):
        outputs = model.apply({"params": params, **rest}, *inputs, train=True, rngs=rngs, **kwargs)
        total = sum(jnp.sum(x) for x in jax.tree.leaves(outputs) if x.dtype == dtype)
        return total, outputs

    def everything():
        variables = model.init({"params": key, **rngs}, *inputs)
        made = {leaf.dtype for leaf in jax.tree.leaves(variables)}
        assert made == {jnp.dtype("float32")}, f"init makes {made}"
        params = convert(variables.pop("params"))
        return jax.grad(loss, has_aux=True)(params, variables)

    grads, outputs = jax.eval_shape(everything)
    outputs = outputs[0] if "mutable" in kwargs and dtype == jnp.float64 else outputs
    for what, tree in (("outputs", outputs), ("gradients", grads)):
        types = {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}
        assert types == {jnp.dtype(dtype).name}, f"{what} of {name} are {types}, not {dtype}"


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
for case in cases():
    for dtype in (jnp.float32, jnp.float64):
        try:
            check(*case, dtype)
        except Exception as error:
            failed += 1
            print(f"{case[0]}, {jnp.dtype(dtype).name}: {type(error).__name__}: {str(error)[:600]}")
sys.exit(failed > 0)
