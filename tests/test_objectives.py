"""Losses, penalties, the optimizer's links and accumulated gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import grads, objectives, optimizers, tree
from jaxmodels.adapters.precision import Cast
from jaxmodels.errors import UserError
from jaxmodels.models.mlp import MLP

KEY = jax.random.key(0)


class Normed(nn.Module):
    """A dense layer between a norm's running statistics and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(4, name="dense")(x)


def labelled(n=12):
    x = jax.random.normal(jax.random.key(1), (n, 6))
    return {"image": x, "label": jnp.arange(n) % 4}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_optaxs(smoothing):
    objective = objectives.classification(MLP((4,)), smoothing)
    params, collections = objective.init(KEY, labelled())
    loss, aux = objective(params, collections, labelled(), KEY)
    logits = MLP((4,)).apply({"params": params}, labelled()["image"])
    targets = optax.smooth_labels(jax.nn.one_hot(labelled()["label"], 4), smoothing)
    expected = optax.softmax_cross_entropy(logits, targets).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    wrong = np.mean(np.argmax(logits, -1) != labelled()["label"])
    np.testing.assert_allclose(aux.scalars["error"], wrong, rtol=1e-6)


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_squared_error_takes_targets_with_and_without_an_axis(shape):
    objective = objectives.regression(MLP((1,)))
    batch = {"x": labelled()["image"], "y": jnp.arange(12.0).reshape(shape)}
    params, collections = objective.init(KEY, batch)
    loss, _ = objective(params, collections, batch, KEY)
    outputs = MLP((1,)).apply({"params": params}, batch["x"])[:, 0]
    np.testing.assert_allclose(loss, np.mean((outputs - np.arange(12)) ** 2), rtol=1e-6)


def test_running_statistics_come_back_and_dropout_follows_the_key():
    objective = objectives.classification(Normed())
    params, collections = objective.init(KEY, labelled())
    loss, aux = objective(params, collections, labelled(), KEY)
    mean = aux.collections["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(mean, 0.01 * labelled()["image"].mean(0), rtol=1e-5)
    assert objective(params, collections, labelled(), KEY)[0] == loss
    assert objective(params, collections, labelled(), jax.random.key(7))[0] != loss


def test_weights_are_all_but_biases_and_scales():
    params, _ = objectives.classification(Normed()).init(KEY, labelled())
    assert tree.decay_mask(params) == {
        "norm": {"scale": False, "bias": False},
        "dense": {"kernel": True, "bias": False},
    }


def test_penalties_are_of_weights_only_and_l2s_gradient_is_the_weight():
    plain = objectives.classification(MLP((4,)))
    params, _ = plain.init(KEY, labelled())
    params = jax.tree.map(lambda w: w + 1, params)
    kernel = np.asarray(params["output"]["kernel"])
    for penalty, value in [
        (objectives.l2(0.3), 0.15 * np.sum(kernel**2)),
        (objectives.l1(0.3), 0.3 * np.sum(np.abs(kernel))),
    ]:
        loss, aux = objectives.penalized(plain, penalty)(params, {}, labelled(), KEY)
        np.testing.assert_allclose(aux.scalars["penalty"], value, rtol=1e-6)
        np.testing.assert_allclose(loss, plain(params, {}, labelled(), KEY)[0] + value, rtol=1e-6)
    gradient = jax.grad(objectives.l2(0.3))(params)
    np.testing.assert_allclose(gradient["output"]["kernel"], 0.3 * kernel, rtol=1e-6)
    np.testing.assert_array_equal(gradient["output"]["bias"], 0)


def stepped(optimizer, params, gradient, steps=1):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_under_sgd_decoupled_decay_equals_the_penalty():
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    zero = jax.tree.map(jnp.zeros_like, params)
    for decay, penalty in [
        (optimizers.weight_decay(0.1), objectives.l2(0.1)),
        (optimizers.l1_decay(0.1), objectives.l1(0.1)),
    ]:
        decoupled, _ = stepped(optax.chain(decay, optax.sgd(0.5)), params, zero)
        coupled, _ = stepped(optax.sgd(0.5), params, jax.grad(penalty)(params))
        jax.tree.map(np.testing.assert_array_equal, decoupled, coupled)
        np.testing.assert_array_equal(decoupled["bias"], params["bias"])


def test_ema_is_the_average_of_the_params():
    params = {"kernel": jnp.array([[4.0]])}
    one = jax.tree.map(jnp.ones_like, params)
    optimizer = optax.chain(optax.sgd(1.0), optimizers.ema(0.75))
    params, state = stepped(optimizer, params, one, steps=2)
    assert float(params["kernel"][0, 0]) == 2.0
    # 4, then 0.75 * 4 + 0.25 * 3 = 3.75, then 0.75 * 3.75 + 0.25 * 2 = 3.3125
    assert float(optimizers.averaged(state)["kernel"][0, 0]) == 3.3125


def test_averaged_asks_for_an_ema():
    with pytest.raises(ValueError, match=r"expected one optimizers.ema .* found 0"):
        optimizers.averaged(optax.adam(1e-3).init({"w": jnp.zeros(2)}))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_accumulated_gradients_equal_the_whole_batchs(n):
    objective = objectives.classification(MLP((5, 4)))
    params, collections = objective.init(KEY, labelled())
    arguments = params, collections, labelled(), KEY
    (loss, aux), gradient = jax.value_and_grad(objective, has_aux=True)(*arguments)
    accumulated = jax.jit(grads.accumulate(n)(objective, has_aux=True))(*arguments)
    # Sums of 12 float32 terms in another order.
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(same, ((loss, aux), gradient), accumulated)


def test_accumulation_passes_running_statistics_from_part_to_part():
    objective = objectives.classification(Normed())
    params, collections = objective.init(KEY, labelled())
    (_, aux), _ = grads.accumulate(2)(objective, has_aux=True)(params, collections, labelled(), KEY)
    x = np.asarray(labelled()["image"])
    expected = 0.99 * (0.01 * x[0::2].mean(0)) + 0.01 * x[1::2].mean(0)
    np.testing.assert_allclose(aux.collections["batch_stats"]["norm"]["mean"], expected, rtol=1e-4)


def test_accumulation_refuses_parts_that_do_not_fit():
    with pytest.raises(UserError, match="at least one part, not 0"):
        grads.accumulate(0)
    objective = objectives.classification(MLP((4,)))
    params, collections = objective.init(KEY, labelled())
    with pytest.raises(UserError, match="batch of 12 cannot be taken in 5 equal parts"):
        grads.accumulate(5)(objective, has_aux=True)(params, collections, labelled(), KEY)


def test_cast_computes_in_bfloat16_and_returns_float32():
    model = Cast(Normed())
    variables = model.init(KEY, labelled()["image"])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs, collections = model.apply(
        variables, labelled()["image"], train=True, rngs={"dropout": KEY}, mutable=["batch_stats"]
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, collections))} == {
        jnp.dtype("float32")
    }
    evaluated = model.apply(variables, labelled()["image"])
    exact = Normed().apply(variables, labelled()["image"])
    assert 0 < np.abs(evaluated - exact).max() < 0.05  # bfloat16 has 8 bits: 2**-8 of a few units
    text = str(jax.make_jaxpr(model.apply)(variables, labelled()["image"]))
    assert "bf16[12,4]" in text
