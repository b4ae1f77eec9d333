"""Objectives: terms, penalties, accumulated gradients; the optimizer's links."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import grads, objectives, optimizers, sharding, tree
from jaxmodels.adapters import Cast, Remat
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
    objective = objectives.classification(MLP((4,)), label_smoothing=smoothing)
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


class Trained(NamedTuple):
    """What `averaged` reads of a training state."""

    params: Any
    opt_state: Any


def test_ema_is_the_average_of_the_params():
    params = {"kernel": jnp.array([[4.0]])}
    one = jax.tree.map(jnp.ones_like, params)
    optimizer = optax.chain(optax.sgd(1.0), optimizers.ema(0.75))
    params, state = stepped(optimizer, params, one, steps=2)
    assert float(params["kernel"][0, 0]) == 2.0
    # 4, then 0.75 * 4 + 0.25 * 3 = 3.75, then 0.75 * 3.75 + 0.25 * 2 = 3.3125
    assert float(optimizers.averaged(Trained(params, state))["kernel"][0, 0]) == 3.3125


def test_averaged_asks_for_an_ema():
    params = {"w": jnp.zeros(2)}
    with pytest.raises(UserError, match=r"expected one optimizers.ema .* found 0"):
        optimizers.averaged(Trained(params, optax.adam(1e-3).init(params)))


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
    with pytest.raises(UserError, match="at least 1 part to accumulate over, got 0"):
        grads.accumulate(0)
    objective = objectives.classification(MLP((4,)))
    params, collections = objective.init(KEY, labelled())
    with pytest.raises(UserError, match="batch of 12 cannot be split into 5 equal parts"):
        grads.accumulate(5)(objective, has_aux=True)(params, collections, labelled(), KEY)


class Sowing(nn.Module):
    """Sows a loss and an intermediate, also during initialisation, and has a head for training."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.Dense(4, name="dense")(x)
        self.sow("losses", "activity", jnp.mean(jnp.square(h)))
        self.sow("intermediates", "hidden", h)
        if train:
            h = h + 0 * nn.Dense(4, name="auxiliary")(x)
        return h


def test_sown_losses_are_a_term_and_what_is_sown_is_no_state():
    objective = objectives.classification(Sowing())
    params, collections = objective.init(KEY, labelled())
    assert not collections
    assert set(params) == {"dense", "auxiliary"}  # a head that only training has
    loss, aux = jax.jit(objective)(params, collections, labelled(), KEY)
    assert not aux.collections
    h = nn.Dense(4).apply({"params": params["dense"]}, labelled()["image"])
    np.testing.assert_allclose(aux.scalars["sown"], np.mean(np.square(h)), rtol=1e-5)
    np.testing.assert_allclose(loss, aux.scalars["cross_entropy"] + aux.scalars["sown"], rtol=1e-6)


def weighted_score(weights):
    """Two terms whose weights differ from row to row, one with a schedule."""

    def score(outputs, batch):
        return {
            "square": objectives.Term(jnp.square(outputs).sum(-1), batch["weight"]),
            "mean": objectives.Term(outputs.mean(-1), coefficient=lambda step: 0.5 * step),
            "seen": objectives.Term(outputs.max(-1), batch["weight"], coefficient=0.0),
        }

    return score


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_terms_are_accumulated_each_by_its_own_weight(n, scale):
    batch = {**labelled(), "weight": scale * jnp.arange(12.0) ** 2}
    objective = objectives.Objective(MLP((5, 4)), ("image",), weighted_score("weight"))
    params, collections = objective.init(KEY, batch)
    arguments = params, collections, batch, KEY, jnp.int32(3)
    (loss, aux), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(*arguments)
    outputs = MLP((5, 4)).apply({"params": params}, batch["image"])
    square = np.average(np.square(outputs).sum(-1), weights=batch["weight"])
    np.testing.assert_allclose(loss, square + 1.5 * outputs.mean(), rtol=1e-5)
    accumulated = jax.jit(grads.accumulate(n)(objective, has_aux=True))(*arguments)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(same, ((loss, aux), gradient), accumulated)


def test_a_batch_that_counts_nothing_has_no_loss():
    batch = {**labelled(), "weight": jnp.zeros(12)}
    objective = objectives.Objective(
        MLP((4,)), ("image",), lambda y, b: {"only": objectives.Term(y.sum(-1), b["weight"])}
    )
    params, _ = objective.init(KEY, batch)
    (loss, _), gradient = jax.value_and_grad(objective, has_aux=True)(params, {}, batch, KEY)
    assert loss == 0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradient)


def test_in_batch_negatives_are_not_accumulated():
    class Towers(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3, name="one")(x), nn.Dense(3, name="other")(x)

    objective = objectives.contrastive(Towers(), ("image",))
    params, _ = objective.init(KEY, labelled())
    loss, _ = objective(params, {}, labelled(), KEY)
    one, other = Towers().apply({"params": params}, labelled()["image"])
    one, other = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, other))
    logits = jnp.asarray(one @ other.T / 0.07)
    own = jnp.arange(12)
    both = [
        optax.softmax_cross_entropy_with_integer_labels(x, own).mean() for x in (logits, logits.T)
    ]
    np.testing.assert_allclose(loss, np.mean(both), rtol=1e-5)
    for whole in (objective, objective.after(lambda key, batch: batch)):
        with pytest.raises(UserError, match="negatives are the other rows"):
            grads.accumulate(2)(whole, has_aux=True)


def test_preparations_compose():
    double = objectives.Objective(
        MLP((4,)),
        ("image",),
        objectives.classification(MLP((4,))).score,
        prepare=lambda key, batch: {**batch, "image": 2 * batch["image"]},
    )
    plus = double.after(lambda key, batch: {**batch, "image": batch["image"] + 1})
    params, _ = plus.init(KEY, labelled())
    both = {**labelled(), "image": 2 * (labelled()["image"] + 1)}
    expected, _ = objectives.classification(MLP((4,)))(params, {}, both, KEY)
    assert plus(params, {}, labelled(), KEY)[0] == expected


def test_soft_targets_are_distributions():
    soft = jax.nn.softmax(jax.random.normal(KEY, (12, 4)))
    batch = {**labelled(), "label": soft}
    objective = objectives.classification(MLP((4,)), label_smoothing=0.2)
    params, _ = objective.init(KEY, batch)
    logits = MLP((4,)).apply({"params": params}, batch["image"])
    expected = optax.softmax_cross_entropy(logits, 0.8 * soft + 0.2 / 4).mean()
    np.testing.assert_allclose(objective(params, {}, batch, KEY)[0], expected, rtol=1e-6)


def test_multi_label_targets_count_each_class():
    targets = (jax.random.uniform(KEY, (12, 4)) > 0.5).astype(jnp.int32)
    batch = {**labelled(), "label": targets}
    objective = objectives.multilabel_classification(MLP((4,)))
    params, _ = objective.init(KEY, batch)
    logits = MLP((4,)).apply({"params": params}, batch["image"])
    expected = optax.sigmoid_binary_cross_entropy(logits, targets).mean()
    np.testing.assert_allclose(objective(params, {}, batch, KEY)[0], expected, rtol=1e-6)
    with pytest.raises(UserError, match="expected the same shape"):
        objective(params, {}, labelled(), KEY)


def test_inputs_and_target_are_names_of_fields():
    batch = {"sound": labelled()["image"], "word": labelled()["label"]}
    objective = objectives.classification(MLP((4,)), ("sound",), "word")
    params, _ = objective.init(KEY, batch)
    plain = objectives.classification(MLP((4,)))
    assert objective(params, {}, batch, KEY)[0] == plain(params, {}, labelled(), KEY)[0]
    with pytest.raises(UserError, match="no field 'sound'; it has image, label"):
        objective.init(KEY, labelled())


@pytest.mark.parametrize("make", [objectives.classification, objectives.regression])
def test_targets_of_another_shape_are_refused(make):
    batch = {"image": jnp.zeros((12, 6)), "label": jnp.zeros((12, 1), jnp.int32)}
    objective = make(MLP((4,)), ("image",), "label")
    params, _ = objective.init(KEY, batch)
    with pytest.raises(UserError, match=r"shape"):
        objective(params, {}, batch, KEY)


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize(
    "make", [objectives.classification, objectives.token_classification, objectives.seq2seq]
)
def test_label_smoothing_is_a_share(make, smoothing):
    with pytest.raises(UserError, match=r"share in 0\.\.1"):
        make(MLP((4,)), label_smoothing=smoothing)


class Plain:
    """An objective of a user's own: `init` and `__call__`, no terms."""

    def init(self, key, batch):
        return {"w": jnp.ones(6)}, {}

    def __call__(self, params, collections, batch, key, step=0):
        loss = jnp.mean(jnp.square(batch["image"] @ params["w"]))
        return loss, objectives.Aux(collections, scalars={"norm": jnp.sum(params["w"])})


def test_an_objective_needs_only_init_and_call():
    params, collections = Plain().init(KEY, labelled())
    arguments = params, collections, labelled(), KEY
    expected = jax.value_and_grad(Plain(), has_aux=True)(*arguments)
    (loss, aux), gradient = grads.accumulate(3)(Plain(), has_aux=True)(*arguments)
    np.testing.assert_allclose(loss, expected[0][0], rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], expected[1]["w"], rtol=1e-5)
    assert float(aux.scalars["norm"]) == 6


def custom_grad(fn, **kwargs):
    """A gradient of a user's own, with the interface of `jax.value_and_grad`."""
    value_and_grad = jax.value_and_grad(fn, **kwargs)

    def computed(params, collections, batch, key, step=0):
        return value_and_grad(params, collections, batch, key, step)

    return computed


MESH = sharding.mesh("data=2", jax.devices()[:2])


@pytest.mark.parametrize(
    "grad",
    [
        grads.accumulate(3, custom_grad),
        grads.per_device(MESH, custom_grad),
        grads.accumulate(3, grads.per_device(MESH)),
        grads.per_device(MESH, grads.accumulate(3)),
        grads.accumulate(2, grads.accumulate(3)),
    ],
    ids=["accumulate", "per device", "both", "both the other way", "twice"],
)
def test_gradients_in_parts_nest(grad):
    batch = {**labelled(), "weight": 0.1 * jnp.arange(12.0) ** 2}
    objective = objectives.Objective(MLP((5, 4)), ("image",), weighted_score("weight"))
    params, collections = objective.init(KEY, batch)
    arguments = params, collections, batch, KEY, jnp.int32(3)
    expected = jax.jit(jax.value_and_grad(objective, has_aux=True))(*arguments)
    found = jax.jit(grad(objective, has_aux=True))(*arguments)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(same, jax.device_get(found), jax.device_get(expected))


@pytest.mark.parametrize("shape", [(12, 1), (1,), (12, 4)])
def test_weights_of_another_shape_than_the_values_are_refused(shape):
    batch = {**labelled(), "weight": jnp.ones(shape)}
    objective = objectives.Objective(MLP((4,)), ("image",), weighted_score("weight"))
    params, _ = objective.init(KEY, batch)
    with pytest.raises(UserError, match="expected a weight for each value"):
        objective(params, {}, batch, KEY)


@pytest.mark.parametrize("score", [lambda y, b: y.sum(), lambda y, b: {"loss": y.sum(-1)}])
def test_a_score_that_returns_no_terms_is_refused(score):
    objective = objectives.Objective(MLP((4,)), ("image",), score)
    params, _ = objective.init(KEY, labelled())
    with pytest.raises(UserError, match=r"returns terms by name.* of type"):
        objective(params, {}, labelled(), KEY)


def test_a_single_input_may_be_named_alone():
    one = objectives.classification(MLP((4,)), "image")
    assert one.inputs == ("image",)


def test_a_reconstruction_of_another_shape_is_refused():
    objective = objectives.reconstruction(MLP((1,)))
    batch = {"image": jnp.zeros((4, 6, 6, 1))}
    params, _ = objective.init(KEY, batch)
    with pytest.raises(UserError, match="expected the same shape"):
        objective(params, {}, batch, KEY)


@pytest.mark.parametrize("adapt", [lambda m: m, Cast, Remat, lambda m: Remat(Cast(m))])
def test_a_model_without_train_is_refused(adapt):
    with pytest.raises(UserError, match=r"Dense.__call__ has no argument `train`"):
        objectives.classification(adapt(nn.Dense(4))).init(KEY, labelled())


class Counting(nn.Module):
    """Counts its calls, in a collection of integers."""

    @nn.compact
    def __call__(self, x, train=False):
        count = self.variable("counter", "n", lambda: jnp.int32(0))
        if not self.is_initializing():
            count.value += 1
        return nn.Dense(4)(x)


def test_integer_collections_stay_integers_on_each_device():
    mesh = sharding.mesh()
    objective, batch = objectives.classification(Counting()), labelled(16)
    params, collections = objective.init(KEY, batch)
    for grad in (jax.value_and_grad, grads.accumulate(4), grads.per_device(mesh)):
        (_, aux), _ = grad(objective, has_aux=True)(params, collections, batch, KEY)
        assert aux.collections["counter"]["n"].dtype == jnp.int32


def test_accumulated_gradients_of_bfloat16_params_are_summed_in_float32():
    objective, batch = objectives.classification(MLP((4,))), labelled(512)
    params, _ = objective.init(KEY, batch)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    whole = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    _, expected = jax.value_and_grad(objective, has_aux=True)(whole, {}, batch, KEY)
    _, found = grads.accumulate(512)(objective, has_aux=True)(half, {}, batch, KEY)
    for got, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert got.dtype == jnp.bfloat16
        # One rounding to 8 bits at the end; rounding each sum cost 13 % and more.
        assert np.abs(np.float32(got) - right).max() < 0.01 * np.abs(right).max()


@pytest.mark.parametrize("n", [0, -1])
def test_parts_are_a_whole_number(n):
    with pytest.raises(UserError, match="expected at least 1 part"):
        grads.accumulate(n)


def test_a_field_without_rows_cannot_be_split():
    objective, batch = objectives.classification(MLP((4,))), labelled()
    params, _ = objective.init(KEY, batch)
    with pytest.raises(UserError, match="a field of the batch is a single number"):
        grads.accumulate(2)(objective, has_aux=True)(params, {}, {**batch, "n": jnp.ones(())}, KEY)
