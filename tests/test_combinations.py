"""What changes how a step is computed, on every kind of mesh, and with each other."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import grads, objectives, sharding, train
from jaxmodels.adapters import POLICIES, Cast, map_model, remat
from jaxmodels.models import causal_lm
from jaxmodels.sharding import rules

MESHES = "data=2,fsdp=2,tensor=2", "data=8", "fsdp=8", "fsdp=4,sequence=2"
OPTIMIZER = optax.sgd(0.1)
MODEL = causal_lm.gpt2(16, 8, 16, 3, 2)
IDS = np.random.default_rng(0).integers(1, 16, (16, 9)).astype(np.int32)
BATCH = {"tokens": IDS[:, :-1], "targets": IDS[:, 1:]}
ONE = sharding.mesh(devices=jax.devices()[:1])

# Rematerialisation, parts of the batch, precision, and turns of the loop over layers.
TABLE = {
    "plain": ("none", 1, jnp.float32, 1),
    "dots": ("dots", 1, jnp.float32, 1),
    "full": ("full", 1, jnp.float32, 1),
    "accumulated": ("none", 2, jnp.float32, 1),
    "bf16": ("none", 1, jnp.bfloat16, 1),
    "unrolled": ("none", 1, jnp.float32, 3),
    "all": ("full", 2, jnp.bfloat16, 3),
}


def losses(policy, parts, dtype, unroll, mesh):
    stack = MODEL.stack.clone(unroll=unroll)
    objective = objectives.next_token(MODEL.clone(stack=stack))
    state = train.init(jax.random.key(0), objective, OPTIMIZER, BATCH, mesh, rule())
    if POLICIES[policy] is not None:
        objective = map_model(objective, lambda model: remat(model, POLICIES[policy]))
    if dtype != jnp.float32:
        objective = map_model(objective, lambda model: Cast(model, dtype))
    step = train.make_step(objective, OPTIMIZER, grads.accumulate(parts))
    found = []
    for _ in range(3):
        state, scalars = step(state, sharding.shard_batch(BATCH, mesh))
        found.append(float(scalars["loss"]))
    return found


def rule():
    return sharding.tensor(MODEL.tensor_dims)


@functools.cache
def expected(dtype):
    return losses("none", 1, dtype, 1, ONE)


def cases():
    """Every one with every mesh; those that are not slow compile once for one device."""
    for mesh in MESHES:
        for name in TABLE:
            quick = mesh == MESHES[0] and name in ("dots", "accumulated", "unrolled")
            yield pytest.param(name, mesh, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "mesh"), list(cases()))
def test_each_goes_with_each_mesh(name, mesh, monkeypatch):
    monkeypatch.setattr(rules, "FSDP_MIN_SIZE", 1)
    found = losses(*TABLE[name], sharding.mesh(mesh))
    dtype = TABLE[name][2]
    # Sums in another order: of 24 bits in the one, of 8 in the other type.
    tolerance = {"rtol": 1e-5} if dtype == jnp.float32 else {"rtol": 4e-3}
    np.testing.assert_allclose(found, expected(dtype), **tolerance)


def test_a_model_without_blocks_is_computed_again_as_a_whole():
    objective = objectives.classification(Normed())
    batch = images()
    params, stats = jax.jit(objective.init)(jax.random.key(0), batch)

    def step(objective):
        return jax.jit(jax.value_and_grad(objective, has_aux=True))(
            params, stats, batch, jax.random.key(1)
        )

    again = map_model(objective, lambda model: remat(model, POLICIES["full"]))
    jax.tree.map(near, step(again), step(objective))
    assert "remat" in str(jax.make_jaxpr(again)(params, stats, batch, jax.random.key(1)))


# BatchNorm, of the whole batch and of each device's rows


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(4)(x)


def images():
    x = np.random.default_rng(0).normal(size=(16, 2, 2, 1)).astype(np.float32)
    scale = np.arange(1, 17, dtype=np.float32)[:, None, None, None]
    return {"image": x * scale, "label": np.arange(16, dtype=np.int32) % 4}


def one_step(batch, mesh, grad=jax.value_and_grad):
    objective = objectives.classification(Normed())
    state = train.init(jax.random.key(0), objective, OPTIMIZER, batch, mesh)
    state, scalars = train.make_step(objective, OPTIMIZER, grad)(
        state, sharding.shard_batch(batch, mesh)
    )
    return jax.device_get((state.params, state.collections["batch_stats"])), float(scalars["loss"])


near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def test_statistics_are_those_of_the_whole_batch():
    jax.tree.map(near, one_step(images(), sharding.mesh("data=8")), one_step(images(), ONE))


def test_per_device_they_are_those_of_each_devices_rows():
    mesh = sharding.mesh("data=4,fsdp=2")
    found, loss = one_step(images(), mesh, grads.per_device(mesh))
    alone = [
        one_step({name: x[2 * n : 2 * n + 2] for name, x in images().items()}, ONE)
        for n in range(8)
    ]
    mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *alone)
    jax.tree.map(near, (found, loss), mean)
    whole, _ = one_step(images(), mesh)
    assert abs(found[1]["BatchNorm_0"]["var"] - whole[1]["BatchNorm_0"]["var"]).max() > 0.01


# Parts of a batch with unequal numbers of tokens that count


def unequal():
    """Of the first rows all tokens count, of the last ones few, of one row none."""
    lengths = np.array([8] * 6 + [5, 3, 2, 2, 1, 1, 1, 1, 1, 0])
    return {**BATCH, "valid": np.arange(8)[None] < lengths[:, None]}


def gradient_of_unequal(grad, mesh=ONE):
    objective = objectives.next_token(MODEL)
    state = train.init(jax.random.key(0), objective, OPTIMIZER, BATCH, mesh)
    (loss, aux), found = jax.jit(grad(objective, has_aux=True))(
        state.params, {}, sharding.shard_batch(unequal(), mesh), jax.random.key(1)
    )
    return jax.device_get((loss, aux.sums["cross_entropy"].weight, found))


def test_parts_count_by_their_tokens():
    whole = gradient_of_unequal(jax.value_and_grad)
    assert whole[1] == 65
    jax.tree.map(near, gradient_of_unequal(grads.accumulate(4)), whole)
    jax.tree.map(near, gradient_of_unequal(grads.accumulate(16)), whole)
    mesh = sharding.mesh("data=8")
    jax.tree.map(near, gradient_of_unequal(grads.per_device(mesh), mesh), whole)


def test_per_device_without_batch_statistics_is_the_plain_gradient():
    objective = objectives.next_token(MODEL)
    mesh = sharding.mesh("data=2,fsdp=4")
    state = train.init(jax.random.key(0), objective, OPTIMIZER, BATCH, mesh)
    step = train.make_step(objective, OPTIMIZER, grads.per_device(mesh))
    _, scalars = step(state, sharding.shard_batch(BATCH, mesh))
    assert float(scalars["loss"]) == pytest.approx(expected(jnp.float32)[0], rel=1e-5)
