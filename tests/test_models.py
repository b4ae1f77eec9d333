"""What is special about dense and convolutional models; `test_model_contract` has the rest."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.layers.shapes import check_floats, check_images
from jaxmodels.models import resnet
from jaxmodels.models.cnn import ConvNet, LeNet
from jaxmodels.models.mlp import MLP, keras_mnist_mlp, mlp_classifier, mlp_regressor
from jaxmodels.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    cifar_resnet,
    imagenet_resnet,
)

# Float32 rounds at 6e-8; a few hundred terms are summed in another order.
SAME = {"rtol": 2e-5, "atol": 2e-5}


def small_resnet(blocks, block, stem, shortcut):
    return ResNet(3, blocks, (4, 8), block, stem, shortcut)


# Compiling the default generator takes seconds for each model; what is tested is the same.
key = functools.partial(jax.random.key, impl="unsafe_rbg")


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (mlp_classifier(), (28, 28, 1), 1_863_690),
        (mlp_regressor(), (1000,), 550_701),
        (keras_mnist_mlp(), (28, 28, 1), 669_706),
        (LeNet(), (28, 28, 1), 61_706),
        (ConvNet(), (28, 28, 1), 421_642),
        # Keras's mnist_cnn pools once and has 1,199,882.
        (ConvNet(), (32, 32, 3), 545_098),
        # He et al., 2015, table 6: 0.27, 0.46, 0.66, 0.85, 1.7 million.
        (cifar_resnet(20), (32, 32, 3), 269_722),
        (cifar_resnet(32), (32, 32, 3), 464_154),
        (cifar_resnet(44), (32, 32, 3), 658_586),
        (cifar_resnet(56), (32, 32, 3), 853_018),
        (cifar_resnet(110), (32, 32, 3), 1_727_962),
        # torchvision.models.
        (imagenet_resnet(18), (224, 224, 3), 11_689_512),
        (imagenet_resnet(34), (224, 224, 3), 21_797_672),
        (imagenet_resnet(50), (224, 224, 3), 25_557_032),
        (imagenet_resnet(101), (224, 224, 3), 44_549_160),
        (imagenet_resnet(152), (224, 224, 3), 60_192_808),
    ],
)
def test_parameter_count_is_the_published_one(model, shape, count):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(model.init, key(0), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (ConvNet(), (2, 28, 28), r"\(B, H, W, C\).*\(2, 28, 28\)"),
        (ConvNet(), (2, 3, 28, 1), "at least 4"),
        (LeNet(), (2, 8, 8, 1), "28x28 or 32x32, got 8x8"),
        (cifar_resnet(), (2, 32), r"\(B, H, W, C\)"),
    ],
)
def test_an_impossible_image_is_refused(model, shape, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("model", "built", "given"),
    [
        (MLP((4, 2)), (28, 28, 1), (8, 8, 1)),
        (MLP((2,)), (28, 28, 1), (8, 8, 1)),
        (ConvNet(), (28, 28, 1), (28, 28, 3)),
        (ConvNet(), (28, 28, 1), (32, 32, 1)),
        (LeNet(), (28, 28, 1), (32, 32, 3)),
        (cifar_resnet(8), (32, 32, 3), (32, 32, 1)),
    ],
)
def test_another_shape_than_the_model_was_built_for_is_refused(model, built, given):
    variables = jax.eval_shape(model.init, key(0), jax.ShapeDtypeStruct((1, *built), jnp.float32))
    with pytest.raises(UserError, match=r"initialised for \d+ features .* got \d+"):
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, *given), jnp.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((0,)), r"widths is at least 1; got \(0,\)"),
        (lambda: MLP((4, 0, 2)), "widths"),
        (lambda: MLP(()), "no widths"),
        (lambda: LeNet(0), "num_classes is at least 1; got 0"),
        (lambda: ConvNet(0), "num_classes"),
        (lambda: ConvNet(channels=(0, 4)), "channels"),
        (lambda: ConvNet(hidden=0), "hidden"),
        (lambda: cifar_resnet(8, num_classes=0), "num_classes"),
        (lambda: small_resnet((0, 1), BasicBlock, resnet.cifar_stem, resnet.pad_shortcut), "block"),
        (lambda: small_resnet((1,), BasicBlock, resnet.cifar_stem, resnet.pad_shortcut), "stage"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_model_made_with_lists_is_the_one_made_with_tuples():
    assert MLP([4, 2]) == MLP((4, 2))
    assert hash(MLP([4, 2])) == hash(MLP((4, 2)))


@pytest.mark.parametrize("model", [MLP((2,)), LeNet(), ConvNet(), cifar_resnet(8)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "bool"])
def test_images_of_integers_are_refused(model, dtype):
    with pytest.raises(UserError, match=rf"values in \[0, 1\]; got {dtype}.*data.image.to_float"):
        check_floats(model, jnp.zeros((2, 28, 28, 1), dtype))
    with pytest.raises(UserError, match=r"data\.image\.rescale"):
        check_images(model, jnp.zeros((2, 28, 28, 1), dtype))


def test_logits_are_not_rounded_to_bfloat16():
    # One product of 1 + 2 ** -7 with itself: exact in float32, not in bfloat16.
    x = jnp.full((1, 1), 1 + 2**-7, jnp.bfloat16)
    params = {"output": {"kernel": x, "bias": jnp.zeros(1, jnp.bfloat16)}}
    assert MLP((1,)).apply({"params": params}, x).item() == (1 + 2**-7) ** 2


@pytest.mark.parametrize(
    ("make", "depth"), [(cifar_resnet, 18), (cifar_resnet, 2), (imagenet_resnet, 20)]
)
def test_an_impossible_depth_is_refused(make, depth):
    with pytest.raises(UserError, match=f"got {depth}"):
        make(depth)


@pytest.fixture(scope="module")
def tiny_resnet():
    model = small_resnet((1, 1), Bottleneck, resnet.imagenet_stem, resnet.project_shortcut)
    x = jax.random.normal(key(1), (8, 16, 16, 1))
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    return model, x, jax.jit(model.init)(key(0), x), train


def test_option_a_subsamples_and_adds_zero_channels_on_both_sides():
    x = jnp.arange(5 * 4 * 3, dtype=jnp.float32).reshape(1, 5, 4, 3) + 1
    y = resnet.pad_shortcut(x, 6, 2, train=True)
    assert y.shape == (1, 3, 2, 6)
    np.testing.assert_array_equal(y[..., 1:4], x[:, ::2, ::2])
    assert not y[..., 0].any()
    assert not y[..., 4:].any()


def test_running_statistics_move_by_a_tenth_in_training_and_stay_in_evaluation(tiny_resnet):
    model, x, variables, train = tiny_resnet
    _, changed = train(variables, x)
    stem = nn.Conv(4, (7, 7), strides=2, padding=3, use_bias=False)
    y = stem.apply({"params": variables["params"]["stem_conv"]}, x)
    moved = changed["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(moved["mean"], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)
    _, same = model.apply(variables, x, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])


def test_evaluation_uses_the_running_statistics(tiny_resnet):
    model, x, variables, train = tiny_resnet
    for _ in range(150):
        outputs, changed = train(variables, x)
        variables = variables | changed
    # 0.9 ** 150 is 1e-7: the statistics have become the batch's own.
    np.testing.assert_allclose(model.apply(variables, x), outputs, rtol=1e-3, atol=1e-4)


def test_statistics_stay_float32_when_all_else_is_bfloat16(tiny_resnet):
    _, x, variables, train = tiny_resnet
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables["params"])
    outputs, changed = train(variables | {"params": half}, x.astype(jnp.bfloat16))
    assert outputs.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("block", "width"), [(BasicBlock, 8), (Bottleneck, 2)])
def test_a_block_with_zero_last_scale_starts_as_the_identity(block, width):
    x = jax.random.uniform(key(0), (2, 4, 4, 8))
    module = block(width, 1, resnet.pad_shortcut, nn.initializers.zeros)
    y, _ = module.init_with_output(key(1), x, train=True)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size", [7, 8])
def test_stride_two_pads_all_sides_alike(kernel, size):
    x = np.random.default_rng(0).normal(size=(1, size, size, 2)).astype(np.float32)
    conv = resnet._conv(3, kernel, 2)
    variables = conv.init(key(0), x)
    pad = (kernel - 1) // 2
    padded = np.pad(x[0], ((pad, pad), (pad, pad), (0, 0)))
    starts = range(0, len(padded) - kernel + 1, 2)
    windows = np.array([[padded[i : i + kernel, j : j + kernel] for j in starts] for i in starts])
    expected = np.einsum("hwijc,ijcd->hwd", windows, variables["params"]["kernel"])
    np.testing.assert_allclose(conv.apply(variables, x)[0], expected, **SAME)
