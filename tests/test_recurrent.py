"""Recurrent layers: equal to PyTorch, Keras and the unrolled loop; lengths, dropout, gradients."""

import dataclasses
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.kernels import rnn_scan
from jaxmodels.layers.cells import GRU, LSTM, Elman, OriginalGRU
from jaxmodels.layers.initializers import per_part_init, uniform
from jaxmodels.layers.recurrent import RNN, StackedRNN

# Float32 rounds at 6e-8, and every step adds to it.
SAME = {"rtol": 1e-5, "atol": 1e-5}

with np.load(Path(__file__).parent / "recurrent_reference.npz") as file:
    REFERENCE = {key: jnp.asarray(value) for key, value in file.items()}
"""Weights in, and outputs of, torch 2.13 and Keras 3.15 (uniform in +-1; B 2, T 4, D 3, H 4)."""

CELLS = {
    "elman": Elman(),
    "relu": Elman(nn.relu, two_biases=True),
    "lstm": LSTM(),
    "gru": GRU(),
    "original": OriginalGRU(),
}


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param]


def sequence(T=7, D=3, B=3):
    return jax.random.normal(jax.random.key(1), (B, T, D))


def built(layer, x, seed=0):
    """Variables all of whose values are far from zero, biases too."""
    init = {"kernel_init": uniform(0.8), "recurrent_init": uniform(0.8), "bias_init": uniform(0.8)}
    return jax.jit(layer.clone(**init).init)(jax.random.key(seed), x)


def state_of(cell, B=3, H=5):
    return tuple(jax.random.normal(jax.random.key(n), (B, H)) for n in range(cell.states))


def by_hand(cell, params, x, state):
    """One step by the equations of the docstrings, in numpy."""

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    h, *rest = state
    W, b = params["input"]["kernel"], params["input"]["bias"]
    U, d = params["recurrent"]["kernel"], params["recurrent"].get("bias", np.zeros_like(b))
    own = np.split(x @ W + b, cell.gates, axis=-1)
    recurrent = np.split(h @ U + d, cell.gates, axis=-1)
    if isinstance(cell, Elman):
        return (np.asarray(cell.activation(own[0] + recurrent[0])),)
    if isinstance(cell, LSTM):
        i, f, g, o = (a + r for a, r in zip(own, recurrent, strict=True))
        c = sigmoid(f) * rest[0] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    r, z = sigmoid(own[0] + recurrent[0]), sigmoid(own[1] + recurrent[1])
    if isinstance(cell, GRU):
        n = np.tanh(own[2] + r * recurrent[2])
    else:
        n = np.tanh(own[2] + (r * h) @ np.split(U, 3, axis=1)[2])
    return ((1 - z) * n + z * h,)


def test_the_scan_is_the_unrolled_loop(cell):
    x, layer = sequence(), RNN(5, cell)
    variables, state = built(layer, x), state_of(cell)
    outputs, final = layer.apply(variables, x, state)
    params, state = jax.tree.map(np.asarray, (variables["params"], state))
    for t in range(x.shape[1]):
        state = by_hand(cell, params, np.asarray(x[:, t]), state)
        np.testing.assert_allclose(outputs[:, t], state[0], **SAME)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), final, state)


def torch_params(kind, weights):
    kernels = {
        "input": {"kernel": weights["weight_ih"].T, "bias": weights["bias_ih"]},
        "recurrent": {"kernel": weights["weight_hh"].T, "bias": weights["bias_hh"]},
    }
    cell = CELLS[kind]
    if isinstance(cell, Elman | LSTM):
        cell = dataclasses.replace(cell, two_biases=True)
    return cell, {"params": kernels}


@pytest.mark.parametrize("kind", ["elman", "relu", "lstm", "gru"])
def test_equal_to_torch(kind):
    stored = {
        key.rpartition("/")[2]: REFERENCE[key] for key in REFERENCE if f"torch/{kind}/" in key
    }
    cell, variables = torch_params(kind, stored)
    initial = (REFERENCE["h"], REFERENCE["c"])[: cell.states]
    outputs, final = RNN(4, cell).apply(variables, REFERENCE["x"], initial)
    np.testing.assert_allclose(outputs, stored["outputs"], **SAME)
    for n, state in enumerate(final):
        np.testing.assert_allclose(state, stored[f"state{n}"], **SAME)


def keras_order(kind, array):
    """Keras's blocks z, r, n of a GRU as r, z, n."""
    if kind not in ("gru", "original"):
        return array
    z, r, n = jnp.split(array, 3, axis=-1)
    return jnp.concatenate([r, z, n], axis=-1)


@pytest.mark.parametrize("kind", ["elman", "lstm", "gru", "original"])
def test_equal_to_keras(kind):
    stored = {
        key.rpartition("/")[2]: REFERENCE[key] for key in REFERENCE if f"keras/{kind}/" in key
    }
    kernel, recurrent, bias = (
        keras_order(kind, stored[name]) for name in ("kernel", "recurrent", "bias")
    )
    first, *second = jnp.atleast_2d(bias)
    params = {"input": {"kernel": kernel, "bias": first}, "recurrent": {"kernel": recurrent}}
    if second:
        params["recurrent"]["bias"] = second[0]
    cell = CELLS[kind]
    initial = (REFERENCE["h"], REFERENCE["c"])[: cell.states]
    outputs, final = RNN(4, cell).apply({"params": params}, REFERENCE["x"], initial)
    np.testing.assert_allclose(outputs, stored["outputs"], **SAME)
    for n, state in enumerate(final):
        np.testing.assert_allclose(state, stored[f"state{n}"], **SAME)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("elman", "RNN", {}),
        ("relu", "RNN", {"nonlinearity": "relu"}),
        ("lstm", "LSTM", {}),
        ("gru", "GRU", {}),
    ],
)
def test_equal_to_the_torch_that_is_installed(kind, name, options):
    """Two bidirectional layers over packed sequences, with gradients of the inputs."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    kwargs = {"num_layers": 2, "bidirectional": True, "batch_first": True, **options}
    theirs = getattr(torch.nn, name)(3, 4, **kwargs)
    lengths = [5, 2, 3]
    x = torch.randn(3, 5, 3, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    outputs, final = theirs(packed)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    outputs.square().sum().backward()
    final = final if kind == "lstm" else (final,)

    params = {}
    for layer in (0, 1):
        for suffix in ("", "_reverse"):
            names = {key: f"{key}_l{layer}{suffix}" for key in ("weight_ih", "weight_hh")}
            names |= {key: f"{key}_l{layer}{suffix}" for key in ("bias_ih", "bias_hh")}
            weights = {
                key: jnp.asarray(getattr(theirs, full).detach()) for key, full in names.items()
            }
            cell, one = torch_params(kind, weights)
            params[f"layer{layer + 1}{suffix and '_backwards'}"] = one["params"]
    stack = StackedRNN(RNN(4, cell), 2, bidirectional=True)

    def loss(x):
        outputs, states = stack.apply({"params": params}, x, lengths=jnp.array(lengths))
        return jnp.sum(outputs**2), (outputs, states)

    grad, (ours, states) = jax.grad(loss, has_aux=True)(jnp.asarray(x.detach().numpy()))
    np.testing.assert_allclose(ours, outputs.detach().numpy(), **SAME)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-5)
    for n, expected in enumerate(final):
        got = jnp.stack([state[n] for state in states])
        np.testing.assert_allclose(got, expected.detach().numpy(), **SAME)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_the_plain_loop(cell, reverse, monkeypatch):
    x, lengths = sequence(), jnp.array([7, 3, 5])
    layer = RNN(5, cell, reverse, dropout=0.4)
    variables, state = built(layer, x), state_of(cell)

    def loss(variables, x, state):
        rngs = {"dropout": jax.random.key(3)}
        outputs, final = layer.apply(variables, x, state, lengths, train=True, rngs=rngs)
        return jnp.sum(outputs**3) + sum(jnp.sum(leaf**2) for leaf in final)

    ours = jax.jit(jax.grad(loss, (0, 1, 2)))(variables, x, state)
    monkeypatch.setattr(rnn_scan, "_rnn_scan", rnn_scan._plain)
    plain = jax.jit(jax.grad(lambda *given: loss(*given), (0, 1, 2)))(variables, x, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, plain)


def test_examples_can_be_mapped_over_and_gradients_differentiated(cell):
    x, layer = sequence(), RNN(4, cell)
    variables = built(layer, x)
    whole, _ = layer.apply(variables, x)
    each = jax.jit(jax.vmap(lambda row: layer.apply(variables, row[None])[0][0]))(x)
    np.testing.assert_allclose(each, whole, **SAME)

    def loss(x):
        return jnp.sum(layer.apply(variables, x)[0] ** 2)

    grad = jax.jit(jax.grad(loss))
    _, product = jax.jvp(grad, (x,), (jnp.ones_like(x),))
    step = 1e-2
    finite = (grad(x + step) - grad(x - step)) / (2 * step)
    np.testing.assert_allclose(product, finite, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padded_steps_change_nothing(cell, bidirectional):
    x, lengths = sequence(T=6), jnp.array([6, 2, 4])
    stack = StackedRNN(RNN(5, cell), 2, bidirectional)
    variables, run = jax.jit(stack.init)(jax.random.key(0), x), jax.jit(stack.apply)
    outputs, states = run(variables, x, lengths=lengths)
    other = jnp.where(jnp.arange(6)[None, :, None] < lengths[:, None, None], x, 99.0)
    jax.tree.map(
        np.testing.assert_array_equal, (outputs, states), run(variables, other, lengths=lengths)
    )
    for row, length in enumerate(lengths.tolist()):
        alone, last = run(variables, x[row : row + 1, :length])
        np.testing.assert_allclose(outputs[row : row + 1, :length], alone, **SAME)
        assert not outputs[row, length:].any()
        got = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], states)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), got, last)


def test_a_sequence_in_two_parts_is_the_whole_one(cell):
    x = sequence()
    stack = StackedRNN(RNN(5, cell), 2)
    variables, run = jax.jit(stack.init)(jax.random.key(0), x), jax.jit(stack.apply)
    whole, last = run(variables, x)
    one, states = run(variables, x[:, :3])
    two, states = run(variables, x[:, 3:], states)
    np.testing.assert_allclose(jnp.concatenate([one, two], axis=1), whole, **SAME)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), states, last)


def test_dropout_between_layers_spares_what_goes_from_step_to_step():
    x = sequence()
    stack = StackedRNN(RNN(5, LSTM()), 2, dropout=0.9)
    variables = stack.init(jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(1)}
    _, (lower, upper) = stack.apply(variables, x, train=True, rngs=rngs)
    _, (same, other) = stack.apply(variables, x)
    jax.tree.map(np.testing.assert_array_equal, lower, same)
    assert not np.allclose(upper[0], other[0])


@pytest.mark.parametrize("per_sequence", [False, True])
def test_dropout_masks_are_for_each_step_or_for_a_sequence(per_sequence):
    # Its outputs are its inputs: relu of the identity, nothing recurrent.
    identity = {"kernel_init": lambda *_: jnp.eye(8), "recurrent_init": nn.initializers.zeros}
    passing = RNN(8, Elman(nn.relu), **identity)

    x = jnp.ones((4, 10, 8))
    stack = StackedRNN(passing, 2, dropout=0.5, per_sequence=per_sequence)
    variables = stack.init(jax.random.key(0), x)
    outputs, _ = stack.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert set(np.unique(outputs)) == {0.0, 2.0}
    assert bool((outputs == outputs[:, :1]).all()) == per_sequence


def test_recurrent_dropout_has_one_mask_for_all_steps():
    def counting(rate):
        # h' = x + h: with a mask m, h after t steps is m + m ** 2 + ... .
        init = {"kernel_init": lambda *_: jnp.eye(6), "recurrent_init": lambda *_: jnp.eye(6)}
        return RNN(6, Elman(nn.relu), dropout=rate, **init)

    x = jnp.ones((3, 4, 6))
    layer = counting(0.5)
    variables = layer.init(jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(1)}
    outputs, _ = layer.apply(variables, x, train=True, rngs=rngs)
    last = set(np.unique(outputs[:, -1]).tolist())
    assert last == {1.0, 15.0}
    np.testing.assert_array_equal(layer.apply(variables, x)[0][:, -1], jnp.full((3, 6), 4.0))


def test_the_forget_bias_is_a_part_of_the_bias():
    bias = built(RNN(2), sequence())["params"]["input"]["bias"]
    plain = built(RNN(2, LSTM(forget_bias=0.0)), sequence())["params"]["input"]["bias"]
    np.testing.assert_allclose(bias - plain, [0, 0, 1, 1, 0, 0, 0, 0], atol=1e-6)


def test_each_gate_is_initialised_as_if_alone(cell):
    params = RNN(6, cell).init(jax.random.key(0), sequence())["params"]
    for block in jnp.split(params["recurrent"]["kernel"], cell.gates, axis=1):
        np.testing.assert_allclose(block @ block.T, jnp.eye(6), atol=1e-5)


def test_what_does_not_fit_is_refused():
    x, layer = sequence(), RNN(5)
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(UserError, match=r"initial state.*\(3, 5\).*got \[\(3, 4\)\]"):
        layer.apply(variables, x, (jnp.zeros((3, 4)),))
    with pytest.raises(UserError, match="initialised for 3 features"):
        layer.apply(variables, sequence(D=4))
    stack = StackedRNN(RNN(5), 2)
    with pytest.raises(UserError, match="has 2 states, got 1"):
        stack.init(jax.random.key(0), x, ((jnp.zeros((3, 5)),) * 2,))


def test_the_parts_of_an_orthogonal_kernel_are_factorised_in_turn():
    """jaxlib's batched QR waits for the threads that it runs in: eight CPU devices never end."""
    init = per_part_init(nn.initializers.orthogonal(), 4)
    kernel = init(jax.random.key(0), (8, 32))
    for part in np.split(np.asarray(kernel), 4, axis=1):
        np.testing.assert_allclose(part.T @ part, np.eye(8), atol=1e-5)
    text = jax.jit(init, static_argnums=1).lower(jax.random.key(0), (8, 32)).as_text()
    (operand,) = set(re.findall(r"geqrf.*?\(tensor<([\dx]+)xf32>", text))
    assert operand == "8x8"
