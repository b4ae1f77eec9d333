"""Dense layers as one matrix product, and dropout of sixteen bits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.kernels.flat_dot_general import flat_dot_general
from jaxmodels.layers.dense import Dense, DenseGeneral, OutputDense, project
from jaxmodels.layers.dropout import Dropout

NEAR = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (Dense(5), nn.Dense(5), (2, 3, 4)),
        (DenseGeneral((2, 3)), nn.DenseGeneral((2, 3)), (2, 3, 4)),
        (DenseGeneral(5, axis=(-2, -1)), nn.DenseGeneral(5, axis=(-2, -1)), (2, 3, 4, 6)),
    ],
)
def test_outputs_and_gradients_are_those_of_flax(ours, theirs, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    variables = theirs.init(jax.random.key(1), x)

    def loss(layer, variables, x):
        return jnp.sum(jnp.sin(layer.apply(variables, x)))

    NEAR(ours.apply(variables, x), theirs.apply(variables, x))
    own, flax = (jax.grad(functools.partial(loss, m), (0, 1))(variables, x) for m in (ours, theirs))
    jax.tree.map(NEAR, own, flax)


def test_the_gradient_of_a_kernel_copies_nothing():
    def loss(x, kernel):
        return jnp.sum(
            jnp.sin(
                nn.gelu(Dense(32).apply({"params": {"kernel": kernel, "bias": 0 * kernel[0]}}, x))
            )
        )

    shapes = (
        jax.ShapeDtypeStruct((4, 6, 16), jnp.float32),
        jax.ShapeDtypeStruct((16, 32), jnp.float32),
    )
    program = jax.jit(jax.grad(loss, 1)).lower(*shapes).as_text()
    # One contraction over B * T; over B and T apart XLA transposes what it contracts.
    assert "contracting_dims = [0] x [0]" in program
    assert "contracting_dims = [0, 1]" not in program


def test_other_contractions_are_refused():
    with pytest.raises(UserError, match="last with first axes"):
        flat_dot_general(jnp.ones((2, 3)), jnp.ones((4, 2)), (((0,), (1,)), ((), ())))


def test_a_tied_embedding_gives_float32_logits():
    x, table = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((7, 4), jnp.bfloat16)
    logits = project(x, table)
    assert logits.shape == (2, 3, 7)
    assert logits.dtype == jnp.float32


def test_outputs_of_bfloat16_inputs_are_not_rounded_to_bfloat16():
    x = jax.random.normal(jax.random.key(0), (4, 3, 64), jnp.bfloat16)
    variables = OutputDense(5).init(jax.random.key(1), x)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    y = OutputDense(5).apply(half, x)
    assert y.dtype == jnp.float32
    exact = np.asarray(x, np.float64) @ np.asarray(half["params"]["kernel"], np.float64)
    # Sums of 64 float32 products; rounded to bfloat16 they would be off by 4e-3.
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda p: OutputDense(5).apply(p, x).sum())(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("width", [1, 7, 64])
def test_dropout_keeps_the_mean_and_drops_the_rate(width):
    x = jnp.ones((50_000 // width, width))
    y = Dropout(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    # 50,000 values: a standard error of 0.002 for the share, of 0.003 for the mean.
    assert float((y == 0).mean()) == pytest.approx(0.3, abs=0.01)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.015)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-4)


def test_neighbours_are_dropped_independently():
    y = Dropout(0.5).apply({}, jnp.ones((1000, 64)), True, rngs={"dropout": jax.random.key(1)})
    kept = np.asarray(y != 0, np.float64) - 0.5
    for distance in (1, 2, 3):
        both = (kept[:, distance:] * kept[:, :-distance]).mean() * 4
        assert abs(both) < 0.02  # 60,000 pairs: a standard error of 0.004


def test_dropout_is_nothing_in_evaluation_or_at_rate_zero():
    x = jnp.ones((2, 3))
    assert Dropout(0.5).apply({}, x) is x
    assert Dropout(0.0).apply({}, x, True) is x


@pytest.mark.parametrize("rate", [0.9999, 1 - 2**-16])
def test_the_mean_stays_near_the_largest_rate(rate):
    y = Dropout(rate).apply({}, jnp.ones((1, 2**20)), True, rngs={"dropout": jax.random.key(0)})
    kept = set(np.unique(y)) - {0.0}
    assert kept == {np.float32(2**16 / (2**16 - round(rate * 2**16)))}
    # One in 2 ** 16 of 2 ** 20 values: 16 with a standard error of 4.
    assert float(y.mean()) == pytest.approx(1.0, abs=1.0)


def test_the_scale_is_not_rounded_to_bfloat16():
    x = jnp.full((1, 1000), 3.0, jnp.bfloat16)
    y = Dropout(0.1).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    # 3 / 0.9 = 3.333; with a scale rounded to bfloat16 it would be 3.328, and all means with it.
    assert y.dtype == jnp.bfloat16
    assert y.max() == jnp.bfloat16(3 / 0.9)


def test_a_mask_is_shared_along_the_axes_that_are_named():
    x = jnp.ones((8, 5, 64))
    y = Dropout(0.5, (1,)).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1], y.shape))
    assert 0.4 < float((y == 0).mean()) < 0.6


@pytest.mark.parametrize("rate", [-0.1, 1.0, 0.999995, float("nan")])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(UserError, match="dropout rate"):
        Dropout(rate).apply({}, jnp.ones(3), True)
