"""Convolution and pooling equal jax's own, and stay what they are under every transformation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmodels import sharding
from jaxmodels.layers.conv import Conv, conv_general_dilated
from jaxmodels.layers.pool import avg_pool, max_pool

KEYS = jax.random.split(jax.random.key(0), 3)
DIMENSIONS = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))

CASES = [
    # B, H, W, C, D, kernel, strides, padding
    (4, 8, 8, 8, 12, (3, 3), (1, 1), "SAME"),
    (4, 9, 7, 8, 12, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (3, 8, 8, 16, 8, (3, 3), (2, 2), "SAME"),
    (2, 11, 10, 3, 8, (7, 7), (2, 2), ((3, 3), (3, 3))),
    (5, 12, 12, 1, 6, (5, 5), (1, 1), "VALID"),
    (2, 9, 9, 8, 16, (1, 1), (2, 2), "VALID"),
    (2, 10, 9, 8, 4, (2, 3), (3, 1), ((0, 2), (1, 0))),
    (64, 16, 16, 16, 16, (3, 3), (1, 1), "SAME"),  # several chunks
]


def operands(case):
    B, H, W, C, D, kernel, *_ = case
    x = jax.random.normal(KEYS[0], (B, H, W, C))
    return x, jax.random.normal(KEYS[1], (*kernel, C, D)) / np.sqrt(np.prod(kernel) * C)


def gradients(convolve, case):
    """Output and both gradients, weighted at random."""
    x, kernel = operands(case)
    *_, strides, padding = case

    def run(x, kernel):
        return convolve(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)

    y, pull = jax.vjp(run, x, kernel)
    return y, *pull(jax.random.normal(KEYS[2], y.shape))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_and_its_gradients_are_laxs(case):
    ours = jax.jit(lambda: gradients(conv_general_dilated, case))()
    theirs = jax.jit(lambda: gradients(lax.conv_general_dilated, case))()
    for a, b in zip(ours, theirs, strict=True):
        # Sums of up to 16,384 float32 terms in another order, relative to the largest of them.
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def loss(layer, params, x):
    return jnp.sum(jnp.square(layer.apply({"params": params}, x)))


def test_layers_parameters_and_values_are_flaxs():
    x = jax.random.normal(KEYS[0], (2, 9, 9, 8))
    for options in {}, {"strides": 2}, {"kernel_dilation": 2}, {"feature_group_count": 4}:
        ours, theirs = Conv(12, (3, 3), **options), nn.Conv(12, (3, 3), **options)
        params = ours.init(KEYS[1], x)["params"]
        jax.tree.map(np.testing.assert_array_equal, params, theirs.init(KEYS[1], x)["params"])
        gradient = [jax.grad(loss, 1)(layer, params, x) for layer in (ours, theirs)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradient)


def test_gradients_per_example_and_in_a_scan_are_the_same():
    layer = Conv(8, (3, 3))
    x = jax.random.normal(KEYS[0], (6, 8, 8, 8))
    params = layer.init(KEYS[1], x)["params"]
    gradient = jax.jit(jax.grad(lambda params, x: loss(layer, params, x)))
    expected = [gradient(params, example[None]) for example in x]
    mapped = jax.vmap(lambda example: gradient(params, example[None]))(x)
    _, scanned = lax.scan(lambda _, example: (None, gradient(params, example[None])), None, x)
    for i, one in enumerate(expected):
        for many in mapped, scanned:
            np.testing.assert_allclose(many["kernel"][i], one["kernel"], rtol=1e-4, atol=1e-3)


def test_a_batch_split_over_devices_stays_split():
    layer = Conv(8, (3, 3))
    mesh = sharding.mesh()
    x = jax.random.normal(KEYS[0], (16, 8, 8, 8))
    params = layer.init(KEYS[1], x)["params"]
    gradient = jax.jit(jax.grad(lambda params, x: loss(layer, params, x)))
    split = sharding.feed({"x": np.asarray(x)}, mesh)["x"]
    expected = gradient(params, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        gradient(params, split),
        expected,
    )
    text = gradient.lower(params, split).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 9, 3), (5, 6, 4)])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_is_flaxs_and_drops_what_fills_no_window(shape, window):
    x = jax.random.normal(KEYS[0], shape)
    for ours, theirs in (max_pool, nn.max_pool), (avg_pool, nn.avg_pool):
        expected = theirs(x, (window, window), (window, window))
        np.testing.assert_allclose(ours(x, window), expected, rtol=1e-6)


def test_equal_largest_values_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 2, 2, 1), 0.25))
