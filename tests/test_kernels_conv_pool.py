"""The fast convolution and pooling equal XLA's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxmodels import sharding
from jaxmodels.kernels.conv import conv_general_dilated
from jaxmodels.kernels.pool import avg_pool, max_pool
from jaxmodels.layers.conv import Conv

DIMENSIONS = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
# Sums of a few hundred float32 products in another order.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

# height, kernel, stride, padding, channels: few channels and many take different ways.
CASES = [
    (9, 3, 1, "SAME", 8),
    (9, 3, 2, ((1, 1), (1, 1)), 8),
    (11, 5, 1, "VALID", 8),
    (10, 7, 2, ((3, 3), (3, 3)), 3),
    (10, 7, 2, ((3, 3), (3, 3)), 8),
    (8, 1, 2, "VALID", 8),
    (8, 2, 3, "SAME", 8),
    (7, 3, 1, ((4, 0), (0, 4)), 8),
    (9, 3, 4, ((5, 3), (2, 2)), 1),
    (9, 3, 4, ((5, 3), (2, 2)), 8),
]


def arrays(height, kernel, channels, batch=4):
    rng = np.random.default_rng(0)
    shapes = (batch, height, height + 1, channels), (kernel, kernel, channels, 5)
    x, weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return jnp.asarray(x), jnp.asarray(weights / np.float32(np.sqrt(kernel * kernel * channels)))


def value_and_gradients(convolve, x, weights):
    y, pullback = jax.vjp(convolve, x, weights)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    return y, *pullback(jnp.asarray(dy / np.float32(np.sqrt(y.size / 5))))


def convolution(function, stride, padding, **kwargs):
    def convolve(x, weights):
        return function(x, weights, (stride,) * 2, padding, dimension_numbers=DIMENSIONS, **kwargs)

    return convolve


@pytest.mark.parametrize(("height", "kernel", "stride", "padding", "channels"), CASES)
def test_equals_lax(height, kernel, stride, padding, channels):
    x, weights = arrays(height, kernel, channels)
    expected = value_and_gradients(
        convolution(lax.conv_general_dilated, stride, padding), x, weights
    )
    ours = value_and_gradients(convolution(conv_general_dilated, stride, padding), x, weights)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize(
    "kwargs", [{"rhs_dilation": (2, 2)}, {"feature_group_count": 2}, {"lhs_dilation": (2, 2)}]
)
def test_what_is_not_plain_is_left_to_lax(kwargs):
    x, weights = arrays(9, 3, 8)
    if "feature_group_count" in kwargs:
        weights = jnp.concatenate([weights[:, :, :4], weights[:, :, 4:]], -1)
    ours = convolution(conv_general_dilated, 1, ((1, 1), (1, 1)), **kwargs)
    plain = convolution(lax.conv_general_dilated, 1, ((1, 1), (1, 1)), **kwargs)
    assert str(jax.make_jaxpr(ours)(x, weights)) == str(jax.make_jaxpr(plain)(x, weights))


def test_module_has_the_parameters_of_flax():
    x = jnp.ones((2, 8, 8, 3))
    ours, flax = Conv(4, (3, 3)), nn.Conv(4, (3, 3))
    variables = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, flax.init(jax.random.key(0), x))
    np.testing.assert_allclose(ours.apply(variables, x), flax.apply(variables, x), **CLOSE)


def test_gradients_of_single_examples():
    x, weights = arrays(6, 3, 8)
    convolve = convolution(conv_general_dilated, 1, "SAME")

    def loss(weights, x):
        return jnp.sum(convolve(x[None], weights) ** 2)

    single = jax.vmap(jax.grad(loss), (None, 0))(weights, x)
    expected = [jax.grad(loss)(weights, row) for row in x]
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-4)


def test_sharded_batch_gives_the_same_gradients():
    mesh = sharding.mesh()
    x, weights = arrays(6, 3, 8, batch=2 * mesh.size)
    convolve = convolution(conv_general_dilated, 1, "SAME")
    gradient = jax.jit(jax.grad(lambda weights, x: jnp.sum(convolve(x, weights) ** 2)))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(gradient(weights, split), gradient(weights, x), rtol=1e-4, atol=1e-4)


def test_other_backends_keep_the_native_gradient():
    x, weights = arrays(6, 3, 8)
    convolve = convolution(conv_general_dilated, 1, "SAME")
    gradient = jax.jit(jax.grad(lambda weights: jnp.sum(convolve(x, weights) ** 2)))
    lowered = {p: gradient.trace(weights).lower(lowering_platforms=(p,)) for p in ("cpu", "tpu")}
    assert "while" in lowered["cpu"].as_text()
    assert "while" not in lowered["tpu"].as_text()


@pytest.mark.parametrize("window", [2, 3])
def test_pools_equal_flax(window):
    # Distinct values: among equal ones max_pool shares the gradient, and flax takes the first.
    x = jnp.asarray(np.random.default_rng(0).permutation(np.arange(336, dtype=np.float32))).reshape(
        2, 7, 8, 3
    )
    for ours, flax in ((max_pool, nn.max_pool), (avg_pool, nn.avg_pool)):

        def theirs(x, flax=flax):
            return flax(x, (window, window), (window, window))

        y, pullback = jax.vjp(lambda x, ours=ours: ours(x, window), x)
        expected, expected_pullback = jax.vjp(theirs, x)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
        np.testing.assert_allclose(pullback(y), expected_pullback(y), rtol=1e-6)


def test_max_pool_shares_the_gradient_among_equals():
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 2, 2, 1), 0.25))


@pytest.mark.parametrize(
    ("image", "padding"),
    [((0, 7, 6, 9), "SAME"), ((2, 2, 2, 9), "VALID"), ((2, 7, 6, 0), "SAME")],
)
def test_gradients_of_empty_images_and_outputs_are_zeros(image, padding):
    x, kernel = jnp.ones(image), jnp.ones((3, 3, image[-1], 4))

    def total(x, kernel):
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return conv_general_dilated(x, kernel, (1, 1), padding, **options).sum()

    for grad, of in zip(jax.grad(total, (0, 1))(x, kernel), (x, kernel), strict=True):
        np.testing.assert_array_equal(grad, jnp.zeros_like(of))
