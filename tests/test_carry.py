"""A state that goes from batch to batch: in steps, in parts of a batch, on meshes, in metrics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import grads, metrics, objectives, sharding, train
from jaxmodels.adapters import Stateful
from jaxmodels.data import text
from jaxmodels.layers.cells import GRU
from jaxmodels.layers.recurrent import RNN
from jaxmodels.losses import cross_entropy
from jaxmodels.models.rnn import RNNLanguageModel
from jaxmodels.typing import CARRY

MODEL = RNNLanguageModel(7, RNN(12, GRU()), 2, 6)
IDS = np.arange(400) * 5 % 7
STREAM = text.stream(IDS, rows=8, length=6)
NEAR = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)


def batch(n):
    return jax.tree.map(jnp.asarray, STREAM[n])


def begin(mesh):
    objective, optimizer = objectives.truncated(MODEL), optax.sgd(0.1)
    state = train.init(jax.random.key(0), objective, optimizer, STREAM.example, mesh)
    return state, objective, optimizer


@pytest.fixture(scope="module")
def one():
    return sharding.mesh(devices=jax.devices()[:1])


def steps(mesh, count, grad=jax.value_and_grad):
    state, objective, optimizer = begin(mesh)
    step, losses = train.make_step(objective, optimizer, grad), []
    for n in range(count):
        state, scalars = step(state, sharding.shard_batch(STREAM[n], mesh))
        losses.append(float(scalars["loss"]))
    return state, losses


def test_a_run_begins_at_zero_and_carries_on(one):
    state, objective, _ = begin(one)
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.collections[CARRY]))
    carry, losses = state.collections, []
    for n in range(3):
        loss, aux = objective(state.params, carry, batch(n), state.key)
        carry = aux.collections
        losses.append(float(loss))
    # All three windows as one sequence.
    tokens, targets = (
        jnp.concatenate([batch(n)[k] for n in range(3)], 1) for k in ("tokens", "targets")
    )
    whole = cross_entropy(MODEL.apply({"params": state.params}, tokens), targets)
    NEAR(losses, np.asarray(whole).reshape(8, 3, 6).mean((0, 2)))


def test_rows_begin_anew_where_the_text_does(one):
    state, objective, _ = begin(one)
    _, aux = objective(state.params, state.collections, batch(0), state.key)
    anew, _ = objective(state.params, aux.collections, batch(0), state.key)
    first, _ = objective(state.params, state.collections, batch(0), state.key)
    assert STREAM[0]["first"].all()
    assert float(anew) == float(first)
    assert STREAM[STREAM.steps_per_epoch]["first"].all()


def test_a_batch_in_parts_carries_each_row_on(one):
    whole, losses = steps(one, 3)
    parts, same = steps(one, 3, grads.accumulate(4))
    NEAR(losses, same)
    jax.tree.map(NEAR, whole.params, parts.params)
    jax.tree.map(NEAR, whole.collections, parts.collections)


@pytest.mark.parametrize("spec", ["data=8", "data=2,fsdp=4"])
def test_the_carry_is_split_as_the_batch_is(one, spec):
    mesh = sharding.mesh(spec)
    state, losses = steps(mesh, 3)
    for leaf in jax.tree.leaves(state.collections[CARRY]):
        assert leaf.sharding.shard_shape(leaf.shape)[0] == 1
    plain, same = steps(one, 3)
    NEAR(losses, same)
    jax.tree.map(NEAR, plain.collections, state.collections)


@pytest.mark.parametrize("length", [5, 50, 400])
@pytest.mark.parametrize("spec", ["data=1", "data=8"])
def test_metrics_do_not_depend_on_the_windows(spec, length):
    devices = jax.devices()[: 8 if spec == "data=8" else 1]
    mesh = sharding.mesh(spec, devices)
    state, _, _ = begin(mesh)
    evaluation = metrics.consecutive(MODEL, text.evaluation_stream(IDS, 1, length), "word")
    results = train.evaluate(evaluation, state.params, state.collections, mesh)
    tokens, targets = jnp.asarray(IDS[None, :-1], jnp.int32), jnp.asarray(IDS[None, 1:])
    params = jax.tree.map(jnp.asarray, jax.device_get(state.params))
    whole = float(cross_entropy(MODEL.apply({"params": params}, tokens), targets).mean())
    assert results["cross_entropy"] == pytest.approx(whole, rel=1e-5)
    assert results["perplexity"] == pytest.approx(np.exp(whole), rel=1e-5)
    assert results["bits_per_word"] == pytest.approx(whole / np.log(2), rel=1e-5)


def test_a_shorter_type_keeps_the_carry_in_its_own():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), begin_params())
    model, inputs = Stateful(MODEL), (batch(0)["tokens"], batch(0)["first"])
    variables = model.init(jax.random.key(0), *inputs)
    _, changed = model.apply({**variables, "params": half}, *inputs, mutable=[CARRY])
    kinds = {leaf.dtype for leaf in jax.tree.leaves(changed[CARRY])}
    assert kinds == {jnp.dtype("float32")}


def begin_params():
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    return variables["params"]


@pytest.mark.parametrize("mutable", [True, CARRY, [CARRY], ("batch_stats", CARRY)])
def test_the_carry_is_returned_where_it_is_mutable(mutable):
    model, inputs = Stateful(MODEL), (batch(0)["tokens"], batch(0)["first"])
    variables = model.init(jax.random.key(0), *inputs)
    outputs, changed = model.apply(variables, *inputs, mutable=mutable)
    assert set(changed) - {"params"} == {CARRY}
    for nothing in (False, "batch_stats", []):
        other = model.apply(variables, *inputs, mutable=nothing)
        if nothing is not False:
            other, changed = other
            assert not changed
        np.testing.assert_array_equal(other, outputs)


def test_the_carry_is_no_part_of_an_evaluation_that_does_not_carry(one):
    state, _, _ = begin(one)
    evaluation = metrics.next_token(MODEL, text.disjoint_windows(IDS, 20))
    small = dataclasses.replace(evaluation, batch_size=4)
    results = train.evaluate(small, state.params, state.collections, one)
    assert 0 < results["cross_entropy"] < 5
