"""Gradients of custom rules have the type of what they are gradients of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.kernels.additive_attention import Source, attentive_gru
from jaxmodels.kernels.conv import DIMENSIONS, conv_general_dilated
from jaxmodels.kernels.flat_dot_general import flat_dot_general
from jaxmodels.kernels.pool import avg_pool, max_pool
from jaxmodels.kernels.rnn_scan import ScanOptions
from jaxmodels.layers.cells import GRU, LSTM, Elman, OriginalGRU

KEY = jax.random.key(0)
T, B, S, D = 4, 2, 3, 5
HALF, FULL = jnp.bfloat16, jnp.float32


def normal(*shape):
    return jax.random.normal(jax.random.fold_in(KEY, len(shape)), shape)


def recurrent(cell):
    def outputs(stream, kernel, bias, *state):
        return cell.run(stream, kernel, bias, state, ScanOptions())

    width = cell.gates * D
    shapes = [(T, B, width), (D, width), (width,), *[(B, D)] * cell.states]
    return outputs, [normal(*shape) for shape in shapes]


def attentive():
    def outputs(x, kernel, bias, query, state, keys, gates, scale):
        source = Source(keys, gates, jnp.ones((B, S), bool), scale)
        return attentive_gru(x, kernel, bias, query, state, source)

    shapes = [(T, B, 3 * D), (D, 3 * D), (3 * D,), (D, D), (B, D), (B, S, D), (B, S, 3 * D), (D,)]
    return outputs, [normal(*shape) for shape in shapes]


def convolution(channels):
    def outputs(x, kernel):
        return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)

    return outputs, [normal(B, 6, 6, channels), normal(3, 3, channels, 4)]


def dense():
    def outputs(x, kernel):
        return flat_dot_general(x, kernel, (((2,), (0,)), ((), ())))

    return outputs, [normal(B, T, D), normal(D, 3)]


KERNELS = {
    "elman": recurrent(Elman()),
    "lstm": recurrent(LSTM(two_biases=True)),
    "gru": recurrent(GRU()),
    "original gru": recurrent(OriginalGRU()),
    "attention": attentive(),
    "conv": convolution(8),
    "conv of few channels": convolution(3),
    "dense": dense(),
    "max_pool": (max_pool, [normal(B, 4, 4, 3)]),
    "avg_pool": (avg_pool, [normal(B, 4, 4, 3)]),
}


def gradients(name, arguments):
    function, _ = KERNELS[name]

    def loss(arguments):
        return sum(jnp.sum(y.astype(FULL) ** 2) for y in jax.tree.leaves(function(*arguments)))

    return jax.jit(jax.grad(loss))(arguments)


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_bfloat16_are_bfloat16_and_close(name):
    _, arguments = KERNELS[name]
    full = gradients(name, arguments)
    half = gradients(name, [x.astype(HALF) for x in arguments])
    for one, exact in zip(half, full, strict=True):
        assert one.dtype == HALF
        # Eight bits of mantissa are 0.4 %; a few roundings, against the largest.
        assert np.abs(one.astype(FULL) - exact).max() <= 0.06 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "attention"])
def test_each_gradient_has_the_type_of_its_own_argument(name):
    _, arguments = KERNELS[name]
    for n in range(len(arguments)):
        mixed = [x.astype(HALF) if m == n else x for m, x in enumerate(arguments)]
        found = [leaf.dtype for leaf in gradients(name, mixed)]
        assert found == [leaf.dtype for leaf in mixed]
