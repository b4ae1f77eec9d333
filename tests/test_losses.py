"""Cross-entropies: equality with optax, narrow integers, shapes, no cancellation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import losses
from jaxmodels.errors import UserError

KEY = jax.random.key(0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32"])
def test_targets_may_be_narrow_integers(dtype):
    logits = jax.random.normal(KEY, (4, 256))
    targets = jnp.array([0, 3, 100, 127], dtype)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, targets.astype(jnp.int32))
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), expected, rtol=1e-6)


def test_the_last_byte_is_a_class():
    logits = jax.random.normal(KEY, (1, 256))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([255]))
    found = losses.cross_entropy(logits, jnp.array([255], jnp.uint8))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("target", [-1, 5, 300])
def test_a_class_outside_the_vocabulary_costs_nan(target):
    assert np.isnan(losses.cross_entropy(jnp.zeros((1, 5)), jnp.array([target]))).all()


@pytest.mark.parametrize("targets", [jnp.zeros((4, 1), jnp.int32), jnp.zeros((4, 2)), jnp.zeros(4)])
def test_targets_of_another_shape_are_refused(targets):
    with pytest.raises(UserError, match="targets have shape"):
        losses.cross_entropy(jnp.zeros((4, 3)), targets)


@pytest.mark.parametrize("target", [0.0, 1.0, 0.25])
def test_binary_cross_entropy_does_not_cancel(target):
    logits = np.array([-60.0, -30.0, -17.0, -1.0, 0.0, 1.0, 17.0, 30.0, 60.0])
    x = np.asarray(logits, np.longdouble)
    exact = (1 - target) * np.log1p(np.exp(x)) + target * np.log1p(np.exp(-x))
    slope = (1 - target) / (1 + np.exp(-x)) - target / (1 + np.exp(x))
    value, gradient = jax.vmap(jax.value_and_grad(losses.binary_cross_entropy), (0, None))(
        jnp.asarray(logits, jnp.float32), jnp.float32(target)
    )
    np.testing.assert_allclose(value, np.asarray(exact, np.float64), rtol=3e-6)
    np.testing.assert_allclose(gradient, np.asarray(slope, np.float64), rtol=3e-6)


def test_binary_cross_entropy_s_gradient_of_the_targets():
    logits, targets = jnp.array([2.0, -1.0]), jnp.array([0.3, 0.9])
    gradient = jax.grad(lambda t: losses.binary_cross_entropy(logits, t).sum())(targets)
    np.testing.assert_allclose(gradient, -logits, rtol=1e-6)


@pytest.mark.parametrize(("B", "T"), [(2, 0), (0, 3), (2, 7)])
def test_chunks_of_no_tokens_and_of_no_rows(B, T):
    x, y = jnp.ones((B, T, 5)), jnp.zeros((B, T), jnp.int32)
    found = losses.in_chunks(losses.cross_entropy, x, y, 3)
    np.testing.assert_allclose(found, losses.cross_entropy(x, y), rtol=1e-6)
