"""Counted operations against those counted by hand."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from jax.sharding import AbstractDevice, AbstractMesh
from jax.sharding import PartitionSpec as P

from jaxmodels import flops, objectives, sharding, train
from jaxmodels.kernels.conv import DIMENSIONS, conv_general_dilated
from jaxmodels.layers import attention
from jaxmodels.models.causal_lm import gpt2
from jaxmodels.models.cnn import ConvNet


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def square(x):
    return x @ x


SQUARE = 2 * 4**3  # of (4, 4)


def test_a_matrix_product():
    counted = flops.count(jnp.matmul, shape(3, 5), shape(5, 7))
    assert counted == flops.FlopCount(total=2 * 3 * 5 * 7, matmul=2 * 3 * 5 * 7)


def test_a_batched_einsum():
    fn = functools.partial(jnp.einsum, "BTNH,BSNH->BNTS")
    assert flops.count(fn, shape(2, 3, 4, 5), shape(2, 7, 4, 5)).matmul == 2 * 2 * 4 * 3 * 7 * 5


def test_integers_are_none():
    x = shape(4, 4, dtype=jnp.int32)
    assert flops.count(lambda x: square(x) + x, x) == flops.FlopCount()


def test_elementwise_operations_and_reductions():
    def fn(x):
        return jnp.sum(jnp.tanh(x) * 2 + x, axis=0)

    assert flops.count(fn, shape(3, 5)) == flops.FlopCount(total=3 * 15 + 15)
    assert flops.count(lambda x: lax.reduce(x, 0.0, jnp.multiply, (0,)), shape(6)).total == 6


def test_movement_choice_and_comparison_are_none():
    def fn(x):
        return jnp.where(x.T > 0, x.T, 0.0)[:2].reshape(-1).astype(jnp.bfloat16)

    assert flops.count(fn, shape(3, 5)) == flops.FlopCount()


def test_windows_and_scatters():
    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID")

    assert flops.count(pool, shape(6)).total == 3 * 2
    assert flops.count(jax.grad(lambda x: pool(x).sum()), shape(6)).total == 3 * 2
    product = functools.partial(lax.reduce_window, init_value=1.0, computation=jnp.multiply)
    fn = functools.partial(product, window_dimensions=(2,), window_strides=(1,), padding="VALID")
    assert flops.count(fn, shape(6)).total == 5 * 2
    assert flops.count(lambda x, i: x.at[i].add(1.0), shape(9), jnp.arange(4)).total == 4


CONVOLUTIONS = {
    "valid": ((2, 8, 9, 4), (3, 3, 4, 6), (1, 1), "VALID", {}, 6 * 7 * 9 * 4),
    "same": ((2, 8, 9, 4), (3, 3, 4, 6), (1, 1), "SAME", {}, 8 * 9 * 9 * 4),
    "strided": ((2, 8, 9, 4), (3, 3, 4, 6), (2, 2), "VALID", {}, 3 * 4 * 9 * 4),
    "strided, padded": ((2, 8, 9, 4), (3, 3, 4, 6), (2, 2), "SAME", {}, 4 * 5 * 9 * 4),
    "groups": (
        (2, 8, 9, 4),
        (3, 3, 2, 6),
        (1, 1),
        "VALID",
        {"feature_group_count": 2},
        6 * 7 * 9 * 2,
    ),
    "depthwise": (
        (2, 8, 9, 6),
        (3, 3, 1, 6),
        (2, 2),
        "SAME",
        {"feature_group_count": 6},
        4 * 5 * 9,
    ),
    "dilated kernel": (
        (2, 8, 9, 4),
        (3, 3, 4, 6),
        (1, 1),
        "VALID",
        {"rhs_dilation": (2, 2)},
        4 * 5 * 9 * 4,
    ),
    "transposed": (
        (2, 4, 5, 4),
        (3, 3, 4, 6),
        (1, 1),
        [(2, 2), (2, 2)],
        {"lhs_dilation": (2, 2)},
        4 * 5 * 9 * 4,
    ),
}
"""Input, kernel, strides, padding, options; multiplications for each example and output feature."""


def gradient(fn, argument):
    return lambda x, kernel, dy: jax.vjp(fn, x, kernel)[1](dy)[argument]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_and_its_gradients(case):
    x, kernel, strides, padding, options, expected = CONVOLUTIONS[case]

    def fn(x, kernel):
        options_ = {"dimension_numbers": DIMENSIONS, **options}
        return lax.conv_general_dilated(x, kernel, strides, padding, **options_)

    once = 2 * 2 * 6 * expected
    assert flops.count(fn, shape(*x), shape(*kernel)) == flops.FlopCount(once, once)
    # Gradients of nothing but the convolution, which is linear: each is one more.
    dy = jax.eval_shape(fn, shape(*x), shape(*kernel))
    for argument in range(2):
        assert flops.count(gradient(fn, argument), shape(*x), shape(*kernel), dy).matmul == once


def test_a_scan_is_its_body_times_its_length():
    def fn(x):
        return lax.scan(lambda c, _: (square(c), c.sum()), x, length=7)

    assert flops.count(fn, shape(4, 4)) == flops.FlopCount(7 * (SQUARE + 16), 7 * SQUARE)

    def loop(x):
        return lax.fori_loop(0, 5, lambda _, c: square(c), x)

    assert flops.count(loop, shape(4, 4)).matmul == 5 * SQUARE


def test_a_while_counts_once_and_says_so():
    def fn(x):
        return lax.while_loop(lambda c: c.sum() < 1, square, x)

    counted = flops.count(lambda x: fn(fn(x)), shape(4, 4))
    assert counted.matmul == 2 * SQUARE
    assert counted.uncounted == ("while: its body was counted once",)


def test_a_cond_is_its_largest_branch():
    def fn(which, x):
        return lax.switch(which, [square, lambda x: square(square(x)), jnp.sin], x)

    assert flops.count(fn, 0, shape(4, 4)).matmul == 2 * SQUARE


@pytest.mark.parametrize("other", [jnp.sin, lambda x: square(square(square(x)))])
def test_of_implementations_for_platforms_the_default_counts(other):
    def fn(x):
        return lax.platform_dependent(x, cpu=other, default=square, cuda=other)

    assert flops.count(fn, shape(4, 4)).total == SQUARE
    assert flops.count(jax.jit(fn), shape(4, 4)).total == SQUARE


def test_nested_jit_and_custom_rules():
    @jax.custom_vjp
    def custom(x):
        return square(x)

    custom.defvjp(lambda x: (square(x), x), lambda x, dy: (dy @ x.T + x.T @ dy,))

    def fn(x):
        return jax.jit(jax.jit(square))(custom(jax.nn.relu(x)))

    assert flops.count(fn, shape(4, 4)) == flops.FlopCount(2 * SQUARE + 16, 2 * SQUARE)
    back = flops.count(jax.jit(jax.value_and_grad(lambda x: custom(x).sum())), shape(4, 4))
    assert back.matmul == 3 * SQUARE


def test_rematerialisation_computes_the_forward_pass_twice():
    def fn(wrap, x, w):
        return jnp.sum(jnp.sin(wrap(lambda x, w: jnp.sin(x @ w))(x, w)))

    def back(wrap):
        fn_ = functools.partial(fn, wrap)
        return flops.count(jax.value_and_grad(fn_, (0, 1)), shape(3, 4), shape(4, 5)).matmul

    product = 2 * 3 * 4 * 5
    assert back(lambda fn: fn) == 3 * product
    assert back(jax.checkpoint) == 4 * product


def test_what_no_result_needs_is_not_counted():
    def fn(x):
        square(square(x))
        return jnp.sin(x)

    assert flops.count(jax.jit(fn), shape(4, 4)) == flops.FlopCount(total=16)


def test_a_primitive_that_no_rule_knows_is_named():
    assert flops.count(jnp.fft.fft, shape(4, dtype=jnp.complex64)).uncounted == (
        "fft: not counted",
    )

    def solve(a, b):
        return lax.custom_linear_solve(lambda x: a @ x, b, lambda matvec, b: b, symmetric=True)

    counted = flops.count(solve, shape(4, 4), shape(4))
    assert counted.matmul > 0
    assert "custom_linear_solve: its body was counted once" in counted.uncounted


def test_shard_map_is_a_shard_times_their_number():
    mesh = sharding.mesh("data=2,fsdp=4")
    each = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    # Over `fsdp` the same is computed four times, and that is what the devices do.
    assert flops.count(each, shape(8, 5), shape(5, 7)).matmul == 4 * 2 * 8 * 5 * 7
    split = P(("data", "fsdp"))
    each = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(split, P()), out_specs=split)
    assert flops.count(each, shape(8, 5), shape(5, 7)).matmul == 2 * 8 * 5 * 7


def test_the_gradient_of_an_mlp_is_three_forward_passes_less_the_inputs():
    def loss(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return x.sum()

    params, x = [shape(6, 8), shape(8, 8), shape(8, 5)], shape(10, 6)
    forward = 2 * 10 * (6 * 8 + 8 * 8 + 8 * 5)
    assert flops.count(loss, params, x).matmul == forward
    both = flops.count(jax.value_and_grad(loss), params, x)
    assert both.matmul == 3 * forward - 2 * 10 * 6 * 8


def test_our_convolution_counts_as_xlas_own():
    def back(convolve, x, first, second):
        def fn(first, second):
            y = convolve(x, first, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
            return convolve(y, second, (2, 2), "VALID", dimension_numbers=DIMENSIONS).sum()

        return jax.value_and_grad(fn, (0, 1))(first, second)

    shapes = shape(2, 8, 8, 4), shape(3, 3, 4, 8), shape(3, 3, 8, 8)
    own, native = (
        flops.count(functools.partial(back, convolve), *shapes)
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    first, second = 2 * 2 * 8 * 8 * 9 * 4 * 8, 2 * 2 * 3 * 3 * 9 * 8 * 8
    # The first layer's input needs no gradient.
    assert own.matmul == native.matmul == 2 * first + 3 * second


def test_convnet():
    model, x = ConvNet(), shape(2, 28, 28, 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    kernels = [k for k in jax.tree.leaves(variables["params"]) if k.ndim > 1]
    counted = flops.count(model.apply, variables, x)
    assert counted.uncounted == ()
    assert 2 * 2 * sum(k.size for k in kernels) < counted.matmul < counted.total


@pytest.mark.parametrize("remat", [None, jax.checkpoint_policies.nothing_saveable])
def test_gpt(remat):
    B, T, V, D, depth, chunk = 4, 32, 96, 16, 3, 64
    model = gpt2(V, context=T, width=D, depth=depth, num_heads=2, chunk=chunk, remat=remat)
    tokens = shape(B, T, dtype=jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    # Of a token: projections 6 D^2 + 2 D^2, MLP 16 D^2; scores 2 T D, values 2 T D.
    block = 24 * D * D + 4 * T * D

    counted = flops.count(model.apply, variables, tokens)
    assert counted.matmul == B * T * (depth * block + 2 * V * D)
    assert counted.uncounted == ()

    def loss(variables, tokens):
        return model.apply(variables, tokens, tokens, method="token_losses").mean()

    # Again is computed what a gradient needs: all but the product that ends a block.
    again = 0 if remat is None else block - 8 * D * D
    counted = flops.count(jax.value_and_grad(loss), variables, tokens)
    # `chunked_cross_entropy` computes the logits a second time for their gradient.
    assert counted.matmul == B * T * (depth * (3 * block + again) + 4 * 2 * V * D)

    if remat is None:
        # 6 N + 12 L T D a token (PaLM, appendix B), N without what is not multiplied.
        kernels = 12 * depth * D * D + V * D
        palm = 6 * kernels + 12 * depth * T * D
        assert counted.matmul == B * T * (palm + 2 * V * D)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("backward", [False, True])
def test_the_products_of_causal_attention_are_those_of_the_platform(platform, backward):
    B, T, N, H = 2, 256, 3, 8
    q = shape(B, T, N, H)

    def fn(q, k, v):
        outputs = functools.partial(attention.attend, causal=True)
        if backward:
            return jax.grad(lambda *qkv: jnp.sum(outputs(*qkv) ** 2), (0, 1, 2))(q, k, v)
        return outputs(q, k, v)

    device = AbstractDevice(platform, None, platform)
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        counted = flops.count(fn, q, q, q)
    # Scores and values, and four products for their gradients; a CPU's blocks of 64 queries meet
    # 64, 128, 192 and 256 keys, elsewhere all queries meet all keys.
    pairs = 64 * (64 + 128 + 192 + 256) if platform == "cpu" else T * T
    assert counted.matmul == (6 if backward else 2) * B * N * 2 * pairs * H


def test_a_training_step_of_gpt():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    batch = dict.fromkeys(["tokens", "targets"], shape(2, 16, dtype=jnp.int32))

    def counted(dropout):
        model = gpt2(64, context=16, width=8, depth=2, num_heads=2, dropout=dropout)
        objective = objectives.next_token(model)
        state = train.abstract_state(objective, optimizer, batch, sharding.mesh())
        return flops.count(train.update(objective, optimizer), state, batch)

    step, dropped = counted(0.0), counted(0.1)
    assert step.matmul == dropped.matmul == 2 * 16 * (3 * 2 * (24 * 64 + 4 * 16 * 8) + 6 * 64 * 8)
    assert step.matmul < step.total < dropped.total
    assert step.uncounted == dropped.uncounted == ()
