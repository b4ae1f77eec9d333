"""One contract for all autoencoders, as `test_models` has one for what computes logits."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels import objectives
from jaxmodels.adapters import Cast, WithArguments
from jaxmodels.errors import UserError
from jaxmodels.layers.distributions import gaussian, logistic
from jaxmodels.models.autoencoder import (
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    MLPTrunk,
    check_image_shape,
    conv_autoencoder,
    deep_autoencoder,
    shallow_autoencoder,
)
from jaxmodels.models.hierarchical_vae import HierarchicalVAE, burda_vae
from jaxmodels.models.vae import DiagonalGaussian, conditional_vae, conv_vae, mlp_vae
from jaxmodels.typing import batch_fields

SHAPE = (8, 8, 1)
LABELLED = ("image", "label")
# Float32 rounds at 6e-8; sums of 64 pixels of some nats each, in another order.
SAME = {"rtol": 2e-5, "atol": 1e-4}

key = functools.partial(jax.random.key, impl="unsafe_rbg")


def autoencoders():
    """Tiny autoencoders, made anew."""
    return {
        "shallow": shallow_autoencoder(SHAPE, 16),
        "deep": deep_autoencoder(SHAPE, (32, 16), 4),
        "conv": Autoencoder(ConvEncoder((8,), 16), ConvDecoder((8,), (8, 6, 3))),
    }


def latent():
    """Tiny models with latents, made anew."""
    return {
        "mlp": mlp_vae(SHAPE, (16,), 3),
        "mlp, gaussian": mlp_vae(SHAPE, (16,), 3, likelihood=gaussian),
        "mlp, logistic": mlp_vae((4, 4, 3), (64,), 4, likelihood=logistic),
        "conditional": conditional_vae(3, SHAPE, (16,), 3),
        "conv": conv_vae(SHAPE, (8, 16), 32, 4),
        "hierarchical": burda_vae(SHAPE, (6, 4), ((32, 32), (16, 16))),
    }


AUTOENCODERS, LATENT = autoencoders(), latent()


def batch_for(model):
    H, W, C = model.decoder.image_shape
    C //= getattr(getattr(model, "likelihood", None), "parameters", 1)
    bits = np.random.default_rng(0).integers(0, 2, (8, H, W, C))
    return {"image": jnp.asarray(bits, jnp.float32), "label": jnp.arange(8) % 3}


def objective_for(name, model):
    if name in AUTOENCODERS and model is AUTOENCODERS[name]:
        return objectives.reconstruction(model)
    labelled = {"inputs": LABELLED} if name == "conditional" else {}
    # A low beta, so that what is learnt by heart are the images.
    return objectives.elbo(model, beta=0.05, **labelled)


CASES = [*AUTOENCODERS.items(), *LATENT.items()]
IDS = [*AUTOENCODERS, *(f"vae {name}" for name in LATENT)]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def case(request):
    name, model = request.param
    objective, batch = objective_for(name, model), batch_for(model)
    inputs = batch_fields(batch, objective.inputs)
    init = jax.jit(objective.init)
    params, collections = init(key(0), batch)
    assert not collections

    @jax.jit
    def decoded(params, *inputs):
        z = model.apply({"params": params}, *inputs, method="encode")
        return model.apply({"params": params}, z, *inputs[1:], method="decode")

    @jax.jit
    def step(params, batch, key):
        (loss, _), grads = jax.value_and_grad(objective, has_aux=True)(params, {}, batch, key)
        return loss, grads

    return SimpleNamespace(
        name=name,
        model=model,
        objective=objective,
        batch=batch,
        inputs=inputs,
        init=init,
        params=params,
        decoded=decoded,
        step=step,
        draws=isinstance(objective.model, WithArguments),
    )


def outputs_of(case, params, *inputs, samples=3):
    kwargs = {"samples": samples, "rngs": {"sample": key(5)}} if case.draws else {}
    return case.model.apply({"params": params}, *inputs, **kwargs)


def test_outputs_have_a_row_each_and_are_float32(case):
    outputs = outputs_of(case, case.params, *case.inputs)
    if case.draws:
        H, W, C = case.model.decoder.image_shape
        assert outputs.outputs.shape == (8, 3, H, W, C)
        assert outputs.kl.shape == outputs.log_ratio.shape == (8, 3)
    else:
        assert outputs.shape == case.batch["image"].shape
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    decoded = case.decoded(case.params, *case.inputs)
    assert decoded.shape == case.batch["image"].shape
    assert decoded.dtype == jnp.float32


def test_jit_changes_nothing(case):
    jitted = jax.jit(functools.partial(outputs_of, case))(case.params, *case.inputs)
    eager = outputs_of(case, case.params, *case.inputs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **SAME), jitted, eager)


def test_a_batch_of_one_is_a_row_of_a_batch(case):
    whole = case.decoded(case.params, *case.inputs)
    one = case.decoded(case.params, *(x[3:4] for x in case.inputs))
    np.testing.assert_allclose(one, whole[3:4], **SAME)


def test_same_key_same_result_and_another_key_another(case):
    again, _ = case.init(key(0), case.batch)
    jax.tree.map(np.testing.assert_array_equal, case.params, again)
    other, _ = case.init(key(2), case.batch)
    rows = case.decoded(case.params, *case.inputs), case.decoded(other, *case.inputs)
    assert not np.array_equal(*rows)
    losses = [case.step(case.params, case.batch, key(k))[0] for k in (5, 5, 6)]
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == case.draws


def test_every_parameter_has_a_finite_gradient_that_is_not_zero(case):
    _, grads = case.step(case.params, case.batch, key(3))
    assert jax.tree.structure(grads) == jax.tree.structure(case.params)
    for path, grad in jax.tree.leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


def test_one_compilation_for_one_shape(case):
    _, grads = case.step(case.params, case.batch, key(3))
    compiled = case.step._cache_size()
    case.step(grads, case.batch | {"image": 1 - case.batch["image"]}, key(4))
    assert case.step._cache_size() == compiled


def test_bfloat16_runs_and_is_close(case):
    half = objective_for(case.name, Cast(case.model)) if case.draws else None
    if half is None:
        half = objectives.reconstruction(Cast(case.model))
    loss, _ = half(case.params, {}, case.batch, key(3))
    full, _ = case.step(case.params, case.batch, key(3))
    assert loss.dtype == jnp.float32
    # Eight bits of mantissa are 0.4 %, through a few layers.
    np.testing.assert_allclose(loss, full, rtol=0.04)


@pytest.mark.parametrize(("made", "again"), [(AUTOENCODERS, autoencoders), (LATENT, latent)])
def test_equal_models_are_equal_and_compile_once(made, again):
    for name, other in again().items():
        assert made[name] is not other
        assert made[name] == other
        assert hash(made[name]) == hash(other)


def test_sharded_equals_replicated(case):
    if jax.device_count() < 8:
        pytest.skip("needs 8 (fake) devices")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    noise = jax.random.key(3)
    plain = case.step(case.params, case.batch, noise)
    sharded = case.step(
        jax.device_put(case.params, everywhere),
        jax.device_put(case.batch, rows),
        jax.device_put(noise, everywhere),
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, **SAME), plain, sharded)


def test_four_examples_can_be_learnt_by_heart(case):
    # Each of the four twice, since the step is compiled for eight.
    batch = {name: jnp.tile(x[:4], (2, *[1] * (x.ndim - 1))) for name, x in case.batch.items()}
    params, optimizer = case.params, optax.adam(1e-2)
    update = jax.jit(optimizer.update)
    moments = optimizer.init(params)
    first, _ = case.step(params, batch, key(0))
    for n in range(250):
        loss, grads = case.step(params, batch, key(n))
        updates, moments = update(grads, moments)
        params = optax.apply_updates(params, updates)
    assert loss < first / 3
    decoded = case.decoded(params, *batch_fields(batch, case.objective.inputs))
    assert np.mean((np.asarray(decoded) > 0.5) == batch["image"]) > 0.97


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (shallow_autoencoder(), 201_616),
        (deep_autoencoder(), 1_141_296),
        (conv_autoencoder(), 178_001),
        # PyTorch's example: 314,000 + 2 * 8,020 + 8,400 + 314,384.
        (mlp_vae(hidden=(400,)), 652_824),
        # Flax's example: 392,500 + 2 * 10,020 + 10,500 + 392,784.
        (mlp_vae(), 815_824),
        # Ten indicators more for each hidden layer of 500.
        (conditional_vae(), 825_824),
        # Keras's example: 69,076 + 65,089.
        (conv_vae(), 134_165),
        # Burda et al., of one and of two stochastic layers.
        (mlp_vae(hidden=(200, 200), latents=50, activation=nn.tanh), 425_284),
        (burda_vae(latents=(50,), widths=((200, 200),)), 425_284),
        (burda_vae(), 521_084),
    ],
)
def test_parameter_count_is_the_published_one(model, count):
    image, label = jnp.zeros((1, 28, 28, 1)), jnp.zeros((1,), jnp.int32)
    inputs = (image, label) if model == conditional_vae() else (image,)
    params = jax.eval_shape(model.init, key(0), *inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("model", [mlp_vae(SHAPE, (4,)), burda_vae(SHAPE), conv_autoencoder(SHAPE)])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 4, 4, 1), (2, 8, 8)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(UserError, match=r"decodes to images of shape \(8, 8, 1\), got .*\(2, "):
        jax.eval_shape(model.init, key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_a_size_that_cannot_be_halved_is_refused():
    x = jax.ShapeDtypeStruct((2, 10, 8, 1), jnp.float32)
    with pytest.raises(UserError, match="divisible by 4, got 10x8"):
        jax.eval_shape(conv_vae((10, 8, 1)).init, key(0), x)


def test_layers_of_latents_need_widths_each():
    with pytest.raises(UserError, match="got 2 latents"):
        burda_vae(latents=(4, 2), widths=((8,),))


@pytest.mark.parametrize("make", [mlp_vae, conditional_vae, conv_vae])
def test_no_latents_are_refused(make):
    with pytest.raises(UserError, match="latents is at least 1; got 0"):
        make(latents=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shallow_autoencoder(hidden=0), "widths"),
        (lambda: deep_autoencoder(codes=0), "widths"),
        (lambda: conv_autoencoder(codes=0), "features"),
        (lambda: shallow_autoencoder((8, 8, 0)), "image_shape"),
        (lambda: ConvDecoder(()), "layers is at least 1; got 0"),
        (lambda: conv_vae(channels=(0,)), "channels"),
        (lambda: mlp_vae(hidden=(0,)), "widths"),
        (lambda: conditional_vae(0), "num_classes"),
        (
            lambda: HierarchicalVAE(mlp_posteriors(), mlp_posteriors(), ConvDecoder()),
            "2 posteriors",
        ),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def mlp_posteriors():
    return [DiagonalGaussian(MLPTrunk((4,)), 2)] * 2


@pytest.mark.parametrize("model", [mlp_vae(SHAPE, (4,)), shallow_autoencoder(SHAPE)])
def test_images_of_integers_are_refused(model):
    with pytest.raises(UserError, match=r"data\.image\.unit"):
        check_image_shape(model, model.decoder, jnp.zeros((2, *SHAPE), jnp.uint8))


@pytest.mark.parametrize("name", LATENT)
def test_what_a_likelihood_reads_is_not_rounded_to_bfloat16(name):
    model, batch = LATENT[name], batch_for(LATENT[name])
    objective = objective_for(name, model)
    params, _ = objective.init(key(0), batch)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    image, *labels = batch_fields(batch, objective.inputs)
    rngs = {"sample": key(1)}
    draws = model.apply({"params": half}, image.astype(jnp.bfloat16), *labels, rngs=rngs)
    for leaf in jax.tree.leaves(draws):
        assert leaf.dtype == jnp.float32
        assert np.mean(leaf != leaf.astype(jnp.bfloat16).astype(jnp.float32)) > 0.9


def test_layers_of_latents_take_no_labels():
    objective = objectives.iwae(burda_vae(SHAPE), 3, inputs=LABELLED)
    with pytest.raises(UserError, match="takes images alone, got 1 more inputs"):
        jax.eval_shape(objective.init, key(0), batch_for(burda_vae(SHAPE)))


@pytest.mark.parametrize("name", LATENT)
def test_samples_have_the_shape_of_images_and_follow_the_key(name):
    model = LATENT[name]
    batch = batch_for(model)
    objective = objective_for(name, model)
    params, _ = objective.init(key(0), batch)
    draw = functools.partial(
        model.apply,
        {"params": params},
        8,
        *batch_fields(batch, objective.inputs)[1:],
        method="sample",
    )
    first, again, other = (draw(rngs={"sample": key(k)}) for k in (1, 1, 2))
    assert first.shape == batch["image"].shape
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_label_changes_what_is_decoded():
    model = LATENT["conditional"]
    batch = batch_for(model)
    params, _ = objective_for("conditional", model).init(key(0), batch)
    z = jnp.zeros((3, 3))
    images = model.apply({"params": params}, z, jnp.arange(3), method="decode")
    assert np.abs(images[0] - images[1]).max() > 1e-3
