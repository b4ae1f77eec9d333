"""Evaluation: the same on every mesh and for every batch size, also of models that draw."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import adapters, data, metrics, objectives, optimizers, sharding, train
from jaxmodels.models.vae import mlp_vae

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def images():
    grey = np.random.default_rng(0).random((37, *SHAPE), np.float32)
    return data.split({"image": grey}, name="grey/test")


@pytest.mark.parametrize("spec", ["data=1", "data=8", "data=2,fsdp=4"])
@pytest.mark.parametrize("batch_size", [5, 16])
def test_draws_follow_the_example_not_batch_or_mesh(spec, batch_size, images):
    model = mlp_vae(SHAPE, (8,), 3)
    params, _ = objectives.elbo(model).init(KEY, {"image": jnp.zeros((1, *SHAPE))})
    evaluation = metrics.elbo(model, images)
    devices = jax.devices()[: 1 if spec == "data=1" else 8]
    one = sharding.mesh(devices=jax.devices()[:1])
    expected = train.evaluate(evaluation, params, {}, one)
    sized = dataclasses.replace(evaluation, batch_size=batch_size)
    found = train.evaluate(sized, params, {}, sharding.mesh(spec, devices))
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-5)
    assert found["kl"] == pytest.approx(expected["kl"], rel=1e-5)


def test_bits_per_dim_is_of_a_size_not_of_a_sum(images):
    """900 images of 4096 x 4096 would have more values than 32 bits count."""
    model = mlp_vae(SHAPE, (8,), 3)
    params, _ = objectives.elbo(model).init(KEY, {"image": jnp.zeros((1, *SHAPE))})
    found = train.evaluate(metrics.elbo(model, images), params, {}, sharding.mesh())
    assert found["bits_per_dim"] == pytest.approx(found["nll"] / 16 / np.log(2), rel=1e-9)
    large = data.split({"image": np.zeros((1, 1, 1, 1), np.float32)}, name="large/test")
    huge = dataclasses.replace(
        large,
        functions=(lambda b: {"image": jnp.broadcast_to(b["image"], (1, 65536, 65536, 1))},),
    )
    summary = metrics.elbo(model, huge).summary({"reconstruction": 2.0, "kl": 0.0, "count": 1})
    assert summary["bits_per_dim"] == pytest.approx(2.0 / 2**32 / np.log(2))


def test_rows_are_kept_on_the_host_in_the_order_of_the_split():
    split = data.split({"x": np.arange(11.0, dtype=np.float32)}, name="rows/test")
    evaluation = metrics.Evaluation(
        adapters.FunctionModel(lambda variables, x: x),
        split,
        ("x",),
        lambda outputs, batch: {"x": outputs},
        lambda rows: {"median": float(np.median(rows["x"])), "rows": rows["x"]},
        reduction=metrics.Rows(),
        batch_size=4,
    )
    found = train.evaluate(evaluation, {}, {}, sharding.mesh("data=4,fsdp=2"))
    np.testing.assert_array_equal(found["rows"], np.arange(11))
    assert found["median"] == 5


class Normed(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8, name="hidden")(x)
        norm = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="norm")
        return nn.Dense(4, name="output")(nn.relu(norm(x)))


@pytest.mark.parametrize(("momentum", "scale"), [(0.9, 1), (0.5, 1), (0.999, 1), (0.9, 10_000)])
def test_statistics_belong_to_the_params_that_are_evaluated(momentum, scale):
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.normal(3 * scale, 2 * scale, (64, 6)).astype(np.float32),
        "label": np.arange(64) % 4,
    }
    batches = data.split(arrays, name="normal/train").batches(64)
    objective = objectives.classification(Normed(momentum)).after(batches.prepare)
    params, collections = objective.init(KEY, batches[0])
    mesh = sharding.mesh("data=8")
    estimate = train.batch_stats_estimator(objective, batches, mesh)
    found = estimate(params, collections)["batch_stats"]["norm"]
    hidden = arrays["image"] @ np.asarray(params["hidden"]["kernel"])
    # 1 - 0.999 has three digits fewer than float32.
    rtol = 1e-5 if momentum < 0.99 else 1e-4
    np.testing.assert_allclose(found["mean"], hidden.mean(0), rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(found["var"], hidden.var(0), rtol=rtol)


def test_a_model_without_statistics_has_none_estimated():
    batches = data.split({"image": np.zeros((8, 6)), "label": np.zeros(8, int)}).batches(8)
    objective = objectives.classification(Normed())
    estimate = train.batch_stats_estimator(objective, batches, sharding.mesh())
    assert estimate({}, {"carry": 1}) == {"carry": 1}


def test_only_trainable_params_have_gradients_and_optimizer_state():
    arrays = {"image": np.random.default_rng(0).normal(size=(16, 6)), "label": np.arange(16) % 4}
    batches = data.split(arrays, name="normal/train").batches(16)
    objective = objectives.classification(Normed()).after(batches.prepare)
    optimizer = optax.chain(optax.adam(1e-2), optimizers.ema(0.5))
    mesh = sharding.mesh("data=2,fsdp=4")
    state = train.init(KEY, objective, optimizer, batches.example, mesh, trainable="^output/")
    before = jax.device_get(state.params)
    assert [leaf.shape for leaf in jax.tree.leaves(state.opt_state[0][0].mu)] == [(4,), (8, 4)]
    step = train.make_step(objective, optimizer, trainable="^output/")
    for n in range(3):
        state, _ = step(state, sharding.shard_batch(batches[n], mesh))
    for name in ("hidden", "norm"):
        jax.tree.map(np.testing.assert_array_equal, state.params[name], before[name])
    assert not np.array_equal(state.params["output"]["kernel"], before["output"]["kernel"])
    average = optimizers.averaged(state)
    np.testing.assert_array_equal(average["hidden"]["kernel"], before["hidden"]["kernel"])
    assert jax.tree.structure(average) == jax.tree.structure(state.params)


def test_trainable_that_selects_nothing_is_refused():
    params = {"hidden": {"kernel": jnp.zeros(2)}}
    with pytest.raises(ValueError, match="'head' selects no parameter; there are hidden/kernel"):
        train.trainable_params(params, "head")
