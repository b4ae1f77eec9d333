"""The step on meshes, its variations, the loop, and exact evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import data, grads, metrics, objectives, sharding, train
from jaxmodels.models.cnn import ConvNet
from jaxmodels.models.mlp import MLP
from jaxmodels.models.resnet import BasicBlock, ResNet, cifar_stem, pad_shortcut
from jaxmodels.train.dispatch import RUN_AHEAD, run_ahead

MODELS = {
    "mlp": MLP((128, 128, 10)),
    "convnet": ConvNet(channels=(8, 16), hidden=64),
    "resnet": ResNet(10, (1, 1), (8, 16), BasicBlock, cifar_stem, pad_shortcut),
}
STEPS = 6


def parts(model, batch_size=32):
    batches = data.load("digits")["train"].batches(batch_size)
    objective = objectives.classification(model).after(batches.prepare)
    return objective, optax.adam(3e-3), batches


def losses(model, mesh, **kwargs):
    """The losses of a few steps, and the last state."""
    objective, optimizer, batches = parts(model)
    state = train.init(jax.random.key(0), objective, optimizer, batches.example, mesh)
    step = train.make_step(objective, optimizer, **kwargs)
    found = []
    for n in range(STEPS):
        state, scalars = step(state, sharding.shard_batch(batches[n], mesh))
        found.append(float(scalars["loss"]))
    return found, state


@pytest.fixture(scope="module", params=MODELS)
def alone(request):
    """A model, and its losses on a single device."""
    model = MODELS[request.param]
    return model, losses(model, sharding.mesh(devices=jax.devices()[:1]))[0]


@pytest.mark.parametrize("spec", ["data=8", "fsdp=8", "data=2,fsdp=2,tensor=2"])
def test_the_curve_is_the_same_on_every_mesh(alone, spec):
    model, expected = alone
    found, _ = losses(model, sharding.mesh(spec))
    assert min(expected[1:]) < expected[0]
    # Sums in another order differ in the last of 24 bits, 6e-8; Adam divides by gradients' sizes,
    # which blows that up where they are near zero, and six steps carry it on.
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def share(leaf):
    """The fraction of a leaf that each device holds."""
    return {shard.data.size / leaf.size for shard in leaf.addressable_shards}


def test_each_device_holds_its_share_of_params_and_moments():
    _, state = losses(MODELS["mlp"], sharding.mesh("data=2,fsdp=4"))
    moments = state.opt_state[0]
    for tree in state.params, moments.mu, moments.nu:
        assert share(tree["hidden1"]["kernel"]) == {1 / 4}
        assert share(tree["hidden2"]["kernel"]) == {1 / 4}
        assert share(tree["hidden2"]["bias"]) == {1}
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
    whole = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    small = 128 + 128 + 10 + 128 * 10
    assert held == (whole - small) // 4 + small


def test_init_is_the_same_on_every_mesh_and_abstract_tells_its_shapes():
    objective, optimizer, batches = parts(MODELS["mlp"])
    arguments = objective, optimizer, batches.example
    states = [
        train.init(jax.random.key(3), *arguments, sharding.mesh(spec))
        for spec in ("data=8", "fsdp=8")
    ]
    same = lambda a, b: np.testing.assert_array_equal(raw(a), raw(b))  # noqa: E731
    jax.tree.map(same, *states)
    abstract = train.abstract_state(*arguments, sharding.mesh("fsdp=8"))
    described = [
        [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(t)] for t in (abstract, states[1])
    ]
    assert described[0] == described[1]


def raw(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def test_accumulated_steps_equal_plain_ones():
    mesh = sharding.mesh("data=2,fsdp=4")
    plain, _ = losses(MODELS["mlp"], mesh)
    accumulated, _ = losses(MODELS["mlp"], mesh, grad=grads.accumulate(2))
    np.testing.assert_allclose(accumulated, plain, rtol=2e-4)  # as on another mesh


def test_a_call_of_several_steps_equals_as_many_calls():
    mesh = sharding.mesh()
    expected, last = losses(MODELS["resnet"], mesh)
    objective, optimizer, batches = parts(MODELS["resnet"])
    state = train.init(jax.random.key(0), objective, optimizer, batches.example, mesh)
    step = train.compile_step(train.repeat(train.update(objective, optimizer)))
    found = []
    state = train.fit(
        state, step, batches, mesh, STEPS, 3, lambda n, scalars: found.append((n, scalars["loss"]))
    )
    assert [n for n, _ in found] == [3, 6]
    np.testing.assert_allclose(np.concatenate([loss for _, loss in found]), expected, rtol=2e-4)
    assert int(state.step) == int(last.step) == STEPS


def poisoned(objective, bad_step):
    """The objective, whose loss and gradient are NaN where the label of row 0 says so."""

    def call(params, collections, batch, key, step=0):
        loss, aux = objective(params, collections, batch, key, step)
        return jnp.where(batch["step"][0] == bad_step, jnp.nan, 1.0) * loss, aux

    return call


def stepped_batches(batches):
    for n in range(STEPS):
        batch = batches[n]
        yield {**batch, "step": np.full(len(batch["label"]), n)}


def test_skipped_updates_change_nothing_but_are_counted():
    mesh = sharding.mesh()
    objective, optimizer, batches = parts(MODELS["resnet"])
    state = train.init(jax.random.key(0), objective, optimizer, batches.example, mesh)
    bad = train.update(poisoned(objective, 2), optimizer)
    step = train.compile_step(train.skip_nonfinite(bad))
    seen = []
    for batch in stepped_batches(batches):
        before = jax.device_get(dataclasses.replace(state, key=None))
        state, scalars = step(state, sharding.shard_batch(batch, mesh))
        seen.append(float(scalars["loss"]))
        if int(state.step) == 3:
            after = jax.device_get(dataclasses.replace(state, key=None))
            for part in "params", "collections", "opt_state":
                jax.tree.map(
                    np.testing.assert_array_equal, getattr(before, part), getattr(after, part)
                )
    assert np.isnan(seen).tolist() == [False, False, True, False, False, False]
    assert (int(state.step), int(state.skipped)) == (STEPS, 1)
    assert bool(train.all_finite(state.params))


class Numbers:
    """Batches whose content is their number."""

    batch_size = 8

    def iterate(self, start, stop, rows=None):
        for n in range(start, stop):
            yield {"n": np.full(8, n, np.float32)}


def counting(state, batch):
    return dataclasses.replace(state, step=state.step + 1), {"loss": jnp.mean(batch["n"])}


def counter(step=0):
    mesh = sharding.mesh()
    # Two arrays for the two zeros: a step takes over its state's memory, each piece once.
    state = train.State(jnp.int32(step), {}, {}, (), jax.random.key(0), jnp.int32(0).copy())
    return jax.device_put(state, sharding.replicated(mesh)), mesh


def test_the_loop_sees_every_step_in_order_and_acts_at_intervals():
    seen, acted = [], []

    def act(n, state):
        assert int(state.step) == n
        assert [step for step, _ in seen] == list(range(4, n + 1))
        acted.append(n)

    state, mesh = counter(3)
    actions = [train.Action(5, act)]
    on_scalars = lambda n, scalars: seen.append((n, scalars["loss"].tolist()))  # noqa: E731
    step = train.compile_step(counting)
    state = train.fit(state, step, Numbers(), mesh, 12, None, on_scalars, actions)
    assert int(state.step) == 12
    assert acted == [5, 10, 12]
    assert seen == [(n, [n - 1.0]) for n in range(4, 13)]


def test_the_loop_stops_when_asked():
    state, mesh = counter()
    step = train.compile_step(counting)
    state = train.fit(state, step, Numbers(), mesh, 12, should_stop=lambda n: n == 7)
    assert int(state.step) == 7


def test_the_loop_fetches_late_but_not_too_late():
    dispatched, lag = [], []

    def step(state, batch):
        dispatched.append(1)
        return counting(state, batch)

    state, mesh = counter()
    on_scalars = lambda n, scalars: lag.append(len(dispatched) - n)  # noqa: E731
    train.fit(state, step, Numbers(), mesh, 9, on_scalars=on_scalars)
    assert max(lag) == 2


def test_a_loss_that_is_not_finite_is_named_with_the_last_one_that_was():
    check = train.check_finite()
    check(2, {"loss": np.array([0.5, 0.25])})
    with pytest.raises(train.Diverged, match=r"step 4 is inf; .* step 3 with 0.125") as caught:
        check(4, {"loss": np.array([0.125, np.inf])})
    assert (caught.value.step, caught.value.last) == (4, (3, 0.125))
    with pytest.raises(train.Diverged, match=r"step 1 is nan; .* no step before it"):
        train.check_finite()(1, {"loss": np.array([np.nan])})


@pytest.mark.parametrize("spec", ["data=8", "data=2,fsdp=4", "tensor=8"])
def test_evaluation_counts_every_example_once_on_every_mesh(spec):
    mesh = sharding.mesh(spec)
    split = data.load("digits")["test"]
    objective, optimizer, batches = parts(MODELS["resnet"])
    state = train.init(jax.random.key(0), objective, optimizer, batches.example, mesh)
    variables = jax.device_get({"params": state.params, **state.collections})
    # 100 does not divide 360, nor 8 it: batches are rounded up and the last is padded.
    evaluation = dataclasses.replace(
        metrics.classification(MODELS["resnet"], split), batch_size=100
    )
    found = train.evaluate(evaluation, state.params, state.collections, mesh)
    whole = split.read(np.arange(len(split)))
    logits = MODELS["resnet"].apply(variables, split.preprocess(whole)["image"])
    right = np.argmax(logits, -1) == whole["label"]
    assert found["accuracy"] == right.mean()
    log_p = jax.nn.log_softmax(logits)
    expected = -np.mean(np.take_along_axis(log_p, whole["label"][:, None], -1))
    np.testing.assert_allclose(found["cross_entropy"], expected, rtol=1e-5)


def test_dispatch_runs_ahead_by_a_few_programs_only():
    dispatched = []

    def programs():
        for n in range(40):
            dispatched.append(n)
            yield jnp.asarray(n)

    for taken, result in enumerate(run_ahead(programs())):
        assert result == taken
        assert len(dispatched) <= taken + 1 + RUN_AHEAD
    assert len(dispatched) == 40
