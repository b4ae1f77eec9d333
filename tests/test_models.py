"""One contract for all models, then what is special about some."""

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

from jaxmodels.errors import UserError
from jaxmodels.kernels.pool import avg_pool
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


def table():
    """A tiny model of each kind, made anew, and the shape of one input."""
    return {
        "mlp": (MLP((12, 8, 3)), (4, 5)),
        "mlp dropout": (MLP((64, 64, 3), dropout=0.3, activation=nn.tanh), (10,)),
        "mlp regressor": (MLP((16, 8, 1), activation=nn.silu), (10,)),
        "lenet": (LeNet(3), (28, 28, 1)),
        "lenet 1998": (LeNet(3, nn.tanh, avg_pool), (32, 32, 3)),
        "convnet": (ConvNet(3, (4, 8), 16), (8, 8, 1)),
        "convnet dropout": (ConvNet(3, (4, 8), 32, dropout=(0.1, 0.3)), (11, 9, 3)),
        "resnet cifar": (
            small_resnet((1, 2), BasicBlock, resnet.cifar_stem, resnet.pad_shortcut),
            (8, 8, 3),
        ),
        "resnet basic": (
            small_resnet((1, 1), BasicBlock, resnet.imagenet_stem, resnet.project_shortcut),
            (17, 17, 3),
        ),
        "resnet bottleneck": (
            small_resnet((1, 1), Bottleneck, resnet.imagenet_stem, resnet.project_shortcut),
            (16, 16, 1),
        ),
    }


TABLE = table()


def loss_of(outputs, label):
    if outputs.shape[-1] == 1:
        return jnp.square(outputs[:, 0] - label).mean()
    return optax.softmax_cross_entropy_with_integer_labels(outputs, label).mean()


@pytest.fixture(scope="module", params=TABLE)
def case(request):
    model, shape = TABLE[request.param]
    x = jax.random.normal(key(1), (8, *shape))
    label = jnp.arange(8) % 3
    init = jax.jit(model.init)
    variables = init(key(0), x[:1])

    @jax.jit
    def step(variables, x, label, noise):
        def loss(params):
            outputs, changed = model.apply(
                variables | {"params": params},
                x,
                train=True,
                rngs={"dropout": noise},
                mutable=["batch_stats"],
            )
            return loss_of(outputs, label), changed

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return SimpleNamespace(
        model=model,
        x=x,
        label=label,
        init=init,
        variables=variables,
        forward=jax.jit(model.apply),
        step=step,
    )


def test_outputs_have_a_row_each_and_are_float32(case):
    outputs = case.forward(case.variables, case.x)
    assert outputs.shape in {(8, 3), (8, 1)}
    assert outputs.dtype == jnp.float32


def test_jit_changes_nothing(case):
    eager = case.model.apply(case.variables, case.x)
    np.testing.assert_allclose(case.forward(case.variables, case.x), eager, **SAME)


def test_a_batch_of_one_is_a_row_of_a_batch(case):
    one = case.forward(case.variables, case.x[3:4])
    np.testing.assert_allclose(one, case.forward(case.variables, case.x)[3:4], **SAME)


def test_same_key_same_result_and_another_key_another(case):
    again = case.init(key(0), case.x[:1])
    other = case.init(key(2), case.x[:1])
    jax.tree.map(np.testing.assert_array_equal, case.variables, again)
    assert not np.array_equal(case.forward(case.variables, case.x), case.forward(other, case.x))
    losses = [case.step(case.variables, case.x, case.label, key(k))[0][0] for k in (5, 5, 6)]
    assert losses[0] == losses[1]
    dropout = "dropout" in type(case.model).__dataclass_fields__ and np.any(case.model.dropout)
    assert (losses[0] != losses[2]) == bool(dropout)


def test_every_parameter_has_a_finite_gradient_that_is_not_zero(case):
    _, grads = case.step(case.variables, case.x, case.label, key(3))
    assert jax.tree.structure(grads) == jax.tree.structure(case.variables["params"])
    for path, grad in jax.tree.leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


def test_one_compilation_for_one_shape(case):
    _, grads = case.step(case.variables, case.x, case.label, key(3))
    compiled = case.step._cache_size()
    case.step(case.variables | {"params": grads}, -case.x, 2 - case.label, key(4))
    assert case.step._cache_size() == compiled


def test_bfloat16_runs_and_is_close(case):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case.variables["params"])
    outputs = case.forward(case.variables | {"params": half}, case.x.astype(jnp.bfloat16))
    assert outputs.dtype == jnp.float32
    full = case.forward(case.variables, case.x)
    # Eight bits of mantissa are 0.4 %; through ten layers and against the largest output.
    error = np.abs(outputs - full).max() / np.abs(full).max()
    assert error < 0.04


@pytest.mark.parametrize("name", TABLE)
def test_equal_models_are_equal_and_compile_once(name):
    (one, _), (other, _) = TABLE[name], table()[name]
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)


def test_sharded_equals_replicated(case):
    if jax.device_count() < 8:
        pytest.skip("needs 8 (fake) devices")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    noise = key(3)
    plain = case.step(case.variables, case.x, case.label, noise)
    sharded = case.step(
        jax.device_put(case.variables, everywhere),
        *jax.device_put((case.x, case.label), rows),
        jax.device_put(noise, everywhere),
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, **SAME), plain, sharded)


def test_four_examples_can_be_learnt_by_heart(case):
    # Each of the four twice, since the step is compiled for eight.
    x, label = jnp.tile(case.x[:4], (2, *[1] * (case.x.ndim - 1))), jnp.tile(case.label[:4], 2)
    variables, optimizer = case.variables, optax.adam(1e-2)
    update = jax.jit(optimizer.update)
    moments = optimizer.init(variables["params"])
    for n in range(80):
        (_, changed), grads = case.step(variables, x, label, key(n))
        updates, moments = update(grads, moments)
        variables = {"params": optax.apply_updates(variables["params"], updates), **changed}
    assert loss_of(case.forward(variables, x), label) < 0.02


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
    with pytest.raises(UserError, match=rf"values in \[0, 1\]; got {dtype}.*data.image.unit"):
        check_floats(model, jnp.zeros((2, 28, 28, 1), dtype))
    with pytest.raises(UserError, match=r"data\.image\.scale"):
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
    model, shape = TABLE["resnet bottleneck"]
    x = jax.random.normal(key(1), (8, *shape))
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
