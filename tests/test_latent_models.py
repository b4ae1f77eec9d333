"""What is special about autoencoders and VAEs; `test_model_contract` has what holds for all."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import latent

from jaxmodels import objectives
from jaxmodels.errors import UserError
from jaxmodels.models.autoencoder import (
    ConvDecoder,
    MLPTrunk,
    check_image_shape,
    conv_autoencoder,
    deep_autoencoder,
    shallow_autoencoder,
)
from jaxmodels.models.hierarchical_vae import HierarchicalVAE, burda_vae
from jaxmodels.models.vae import DiagonalGaussian, conditional_vae, conv_vae, mlp_vae

SHAPE = (8, 8, 1)

key = functools.partial(jax.random.key, impl="unsafe_rbg")


LATENT = latent()


def initialised(name):
    """A model, its inputs, its variables."""
    case = LATENT[name]
    inputs = jax.tree.map(jnp.asarray, case.inputs)
    return case.model, inputs, case.model.init({"params": key(0), "sample": key(0)}, *inputs)


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
    with pytest.raises(UserError, match=r"data\.image\.to_float"):
        check_image_shape(model, model.decoder, jnp.zeros((2, *SHAPE), jnp.uint8))


@pytest.mark.parametrize("name", LATENT)
def test_what_a_likelihood_reads_is_not_rounded_to_bfloat16(name):
    model, (image, *labels), variables = initialised(name)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    draws = model.apply(half, image.astype(jnp.bfloat16), *labels, rngs={"sample": key(1)})
    for leaf in jax.tree.leaves(draws):
        assert leaf.dtype == jnp.float32
        assert np.mean(leaf != leaf.astype(jnp.bfloat16).astype(jnp.float32)) > 0.9


def test_layers_of_latents_take_no_labels():
    objective = objectives.iwae(burda_vae(SHAPE), 3, inputs=("image", "label"))
    batch = {"image": jnp.zeros((2, *SHAPE)), "label": jnp.zeros(2, jnp.int32)}
    with pytest.raises(UserError, match="takes images alone, got 1 more inputs"):
        jax.eval_shape(objective.init, key(0), batch)


@pytest.mark.parametrize("name", LATENT)
def test_samples_have_the_shape_of_images_and_follow_the_key(name):
    model, (image, *labels), variables = initialised(name)
    draw = functools.partial(model.apply, variables, 8, *labels, method="sample")
    first, again, other = (draw(rngs={"sample": key(k)}) for k in (1, 1, 2))
    assert first.shape == image.shape
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", LATENT)
def test_draws_are_as_many_as_asked_for(name):
    model, inputs, variables = initialised(name)
    draws = model.apply(variables, *inputs, samples=3, rngs={"sample": key(1)})
    assert draws.outputs.shape == (8, 3, *model.decoder.image_shape)
    assert draws.kl.shape == draws.log_ratio.shape == (8, 3)


def test_a_label_changes_what_is_decoded():
    model, _, variables = initialised("vae conditional")
    images = model.apply(variables, jnp.zeros((3, 3)), jnp.arange(3), method="decode")
    assert np.abs(images[0] - images[1]).max() > 1e-3
