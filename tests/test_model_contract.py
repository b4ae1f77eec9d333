"""One contract for all models: every case of `contract.table` keeps every promise below.

What a case compiles is shared by its tests and forgotten after them.
"""

import functools
import gc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import B, table

from jaxmodels import sharding
from jaxmodels.adapters import POLICIES, Cast, Remat, remat
from jaxmodels.sharding import rules

TABLE, AGAIN = table(), table()
MESHES = "data=8", "fsdp=8", "data=2,fsdp=2,tensor=2"
NAMES = list(TABLE)
# Float32 rounds at 6e-8; a few hundred terms are summed in another order.
SAME = {"rtol": 2e-5, "atol": 2e-5}
same = functools.partial(np.testing.assert_allclose, **SAME)

# Compiling the default generator takes seconds for each model; what is tested is the same.
key = functools.partial(jax.random.key, impl="unsafe_rbg")


def rngs(key):
    return {"params": key, "dropout": key, "sample": key}


@functools.partial(jax.jit, static_argnames="model")
def init(model, inputs, key):
    return model.init(rngs(key), *inputs)


def predict_eagerly(model, variables, inputs, of=None):
    return model.apply(variables, *inputs) if of is None else of(model, variables, *inputs)


predict = jax.jit(predict_eagerly, static_argnames=("model", "of"))


def draw(model, options, variables, inputs, key):
    """Outputs and changed statistics of training."""
    return model.apply(
        variables, *inputs, train=True, rngs=rngs(key), mutable=["batch_stats"], **dict(options)
    )


@functools.partial(jax.jit, static_argnames=("model", "options", "loss"))
def step(model, options, loss, variables, inputs, key):
    """((loss, changed statistics), gradients)."""

    def of_params(params):
        outputs, changed = draw(model, options, {**variables, "params": params}, inputs, key)
        return loss(outputs, *inputs), changed

    return jax.value_and_grad(of_params, has_aux=True)(variables["params"])


@pytest.fixture(scope="module", params=TABLE)
def case(request):
    case = TABLE[request.param]
    inputs = jax.tree.map(jnp.asarray, case.inputs)
    yield SimpleNamespace(
        **vars(case) | {"inputs": inputs},
        name=request.param,
        twin=AGAIN[request.param].model,
        variables=init(case.model, inputs, key(0)),
        step=functools.partial(step, case.model, case.options, case.loss),
    )
    jax.clear_caches()
    gc.collect()


def predictions(case, model=None, variables=None, inputs=None):
    return predict(
        case.model if model is None else model,
        case.variables if variables is None else variables,
        case.inputs if inputs is None else inputs,
        case.predict,
    )


def halved(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def test_outputs_have_a_row_each_and_are_float32(case):
    drawn, _ = jax.eval_shape(
        functools.partial(draw, case.model, case.options), case.variables, case.inputs, key(0)
    )
    for leaf in (*jax.tree.leaves(drawn), predictions(case)):
        assert leaf.shape[0] == B
        assert leaf.dtype == jnp.float32


def test_jit_changes_nothing(case):
    same(predictions(case), predict_eagerly(case.model, case.variables, case.inputs, case.predict))


def test_a_batch_of_one_is_a_row_of_a_batch(case):
    one = predictions(case, inputs=tuple(x[3:4] for x in case.inputs))
    same(one, predictions(case)[3:4])


def test_same_key_same_result_and_another_key_another(case):
    again, other = (init(case.model, case.inputs, key(n)) for n in (0, 2))
    jax.tree.map(np.testing.assert_array_equal, case.variables, again)
    assert not np.array_equal(predictions(case), predictions(case, variables=other))
    losses = [case.step(case.variables, case.inputs, key(k))[0][0] for k in (5, 5, 6)]
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == case.noisy


def test_every_parameter_has_a_finite_gradient_that_is_not_zero(case):
    _, grads = case.step(case.variables, case.inputs, key(3))
    assert jax.tree.structure(grads) == jax.tree.structure(case.variables["params"])
    for path, grad in jax.tree.leaves_with_path(grads):
        assert grad.dtype == jnp.float32, path
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


def test_one_compilation_for_one_shape(case):
    _, grads = case.step(case.variables, case.inputs, key(3))
    compiled = step._cache_size()
    others = tuple(x[::-1] for x in case.inputs)
    case.step({**case.variables, "params": grads}, others, key(4))
    assert step._cache_size() == compiled


def test_equal_models_are_equal_and_compile_once(case):
    assert case.twin is not case.model
    assert case.twin == case.model
    assert hash(case.twin) == hash(case.model)
    outputs, compiled = predictions(case), predict._cache_size()
    np.testing.assert_array_equal(predictions(case, case.twin), outputs)
    assert predict._cache_size() == compiled


def test_bfloat16_runs_and_is_close(case):
    full, outputs = predictions(case), predictions(case, Cast(case.model))
    assert outputs.dtype == jnp.float32
    # Eight bits of mantissa are 0.4 %; through ten layers and against the largest output.
    assert np.abs(outputs - full).max() / np.abs(full).max() < 0.04


def test_in_bfloat16_losses_are_float32_and_gradients_of_the_params_type(case):
    half = halved(case.variables)
    (loss, _), grads = jax.eval_shape(case.step, half, halved(case.inputs), key(3))
    assert loss.dtype == jnp.float32
    assert jax.tree.map(lambda x: x.dtype, grads) == jax.tree.map(lambda x: x.dtype, half["params"])


def test_narrow_integers_are_the_same_integers(case):
    if not any(x.dtype == jnp.int32 for x in case.inputs):
        pytest.skip("takes no integers")
    for dtype in ("uint8", "int16"):
        narrow = tuple(x.astype(dtype) if x.dtype == jnp.int32 else x for x in case.inputs)
        np.testing.assert_array_equal(predictions(case, inputs=narrow), predictions(case))


def test_remat_saves_memory_and_changes_no_gradient(case):
    if isinstance(remat(case.model, POLICIES["full"]), Remat):
        pytest.skip("has no stack of blocks")
    # Many rows, so that activations outweigh params.
    inputs = tuple(jnp.tile(x, (16, 1)) for x in case.inputs)
    grads, memory = [], []
    for model in (case.model, remat(case.model, POLICIES["full"])):
        arguments = model, case.options, case.loss, case.variables, inputs, key(3)
        compiled = step.lower(*arguments).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
        grads.append(step(*arguments)[1])
    assert memory[1] < 0.8 * memory[0]
    jax.tree.map(same, *grads)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (fake) devices")
@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in range(1, len(MESHES)))]
)
def test_sharded_equals_replicated(case, turn, monkeypatch):
    monkeypatch.setattr(rules, "FSDP_MIN_SIZE", 1)
    mesh = sharding.mesh(MESHES[(NAMES.index(case.name) + turn) % len(MESHES)])
    rule = sharding.tensor(getattr(case.model, "tensor_dims", {}))
    # The one generator whose numbers do not depend on the number of devices.
    noise = jax.random.key(3) if case.noisy else key(3)
    plain = case.step(case.variables, case.inputs, noise)
    variables = jax.device_put(case.variables, sharding.sharding_tree(case.variables, mesh, rule))
    inputs = jax.device_put(case.inputs, sharding.batch_sharding(mesh))
    with sharding.use_mesh(mesh):
        sharded = case.step(variables, inputs, jax.device_put(noise, sharding.replicated(mesh)))
    jax.tree.map(same, plain, sharded)


def test_four_examples_can_be_learnt_by_heart(case):
    # Each of the four twice, since the step is compiled for eight.
    inputs = tuple(jnp.concatenate([x[:4], x[:4]]) for x in case.inputs)
    # At a constant rate the loss leaps now and then, the last step as well as any.
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 300))

    @jax.jit
    def update(params, moments, grads):
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    variables, moments = case.variables, optimizer.init(case.variables["params"])
    for n, noise in enumerate(jax.random.split(key(0), 300)):
        (loss, changed), grads = case.step(variables, inputs, noise)
        first = loss if n == 0 else first
        params, moments = update(variables["params"], moments, grads)
        variables = {"params": params, **changed}
    predicted = predict(case.model, variables, inputs, case.learnt or case.predict)
    if case.predict is None:
        loss, first = case.loss(predicted, *inputs), 1
    assert loss < case.loss.enough * first
    assert np.mean(case.loss.correct(predicted, *inputs)) > 0.97
