"""Attention: what is seen, the end of the cache, sizes, and where the fused kernel is used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from jaxmodels.errors import UserError
from jaxmodels.kernels import attention
from jaxmodels.kernels.blockwise_attention import supports_blockwise
from jaxmodels.layers import positions
from jaxmodels.layers.attention import CrossAttention, KeysValues, SelfAttention
from jaxmodels.layers.context import Context
from jaxmodels.models.causal_lm import gpt2, llama
from jaxmodels.models.encoder_decoder import transformer
from jaxmodels.typing import CACHE

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 6, 8))
POSITIONS = jnp.broadcast_to(jnp.arange(6)[None], (2, 6))


CONTEXT = Context(POSITIONS)


def apply(layer, x=X, context=CONTEXT, **options):
    variables = jax.jit(lambda: layer.init(jax.random.key(1), x, context))()
    return jax.jit(lambda v: layer.apply(v, x, context, **options))(variables)


def cached(positions):
    return Context(positions, cache=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 3, None])
def test_the_weights_that_are_shown_are_those_of_the_output(causal, window):
    layer = SelfAttention(2, causal=causal, window=window)
    _, found = apply(layer, mutable=["intermediates"])
    (weights,) = found["intermediates"]["weights"]
    distance = np.arange(6)[:, None] - np.arange(6)
    near = (distance >= 0) | (not causal)
    near &= np.abs(distance) < (window or 6)
    np.testing.assert_array_equal(np.asarray(weights[0, 0]) > 0, near)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("T", "dtype"), [(64, jnp.float32), (192, jnp.float32), (128, jnp.bfloat16)]
)
def test_in_blocks_causal_attention_is_the_plain_one(T, dtype):
    q, k, v, g = jax.random.normal(jax.random.key(2), (4, 2, T, 2, 8)).astype(dtype)

    def both(fn):
        return jax.jit(lambda *x: (fn(*x), jax.vjp(fn, *x)[1](g)))(q, k, v)

    assert supports_blockwise(q, k, None, None, True)
    plain = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    blocks = functools.partial(attention.attend, causal=True)
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 0.05, "atol": 0.05}
    )
    for ours, theirs in zip(*map(jax.tree.leaves, (both(blocks), both(plain))), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(*(x.astype(jnp.float32) for x in (ours, theirs)), **tolerance)


def test_blocks_are_for_cpus_and_whole_rows_only():
    q = jnp.zeros((2, 128, 2, 8))
    mask = jnp.ones((2, 1, 128, 128), bool)
    assert not supports_blockwise(q, q, None, None, False)
    assert not supports_blockwise(q, q, mask, None, True)
    assert not supports_blockwise(q[:, :100], q[:, :100], None, None, True)
    assert not supports_blockwise(q, q[:, :, :1], None, None, True)
    assert not supports_blockwise(
        jnp.zeros((1, 2048, 2, 8)), jnp.zeros((1, 2048, 2, 8)), None, None, True
    )
    with jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("sequence",), (AxisType.Auto,))):
        assert not supports_blockwise(q, q, None, None, True)


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_a_token_is_refused(window):
    with pytest.raises(UserError, match=f"at least 1 token, its own; got {window}"):
        apply(SelfAttention(2, causal=True, window=window))


def test_more_tokens_than_the_cache_holds_are_refused():
    layer = SelfAttention(2, causal=True)
    variables = layer.init(jax.random.key(1), X[:, :4], cached(POSITIONS[:, :4]))
    with pytest.raises(UserError, match="6 tokens do not fit into a cache of 4"):
        layer.apply(variables, X, cached(POSITIONS), mutable=[CACHE])


def test_tokens_beyond_the_cache_get_nan():
    layer = SelfAttention(2, causal=True)
    variables = layer.init(jax.random.key(1), X[:, :4], cached(POSITIONS[:, :4]))
    step = jax.jit(lambda v, x, n: layer.apply(v, x, cached(n), mutable=[CACHE]))
    whole = layer.apply(variables, X, Context(POSITIONS))
    for n in range(6):
        y, cache = step(variables, X[:, n : n + 1], POSITIONS[:, n : n + 1])
        variables = {**variables, **cache}
        expected = whole[:, n : n + 1] if n < 4 else jnp.full_like(y, jnp.nan)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_places_are_counted_within_each_document():
    segments = jnp.array([[1, 1, 1, 2, 2, 3], [1, 1, 2, 0, 0, 0], [4, 4, 4, 4, 4, 4]])
    found = positions.segment_positions(segments)
    assert found.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("T", [3, 4])
def test_a_write_beyond_the_cache_damages_nothing_that_fits(T):
    layer = SelfAttention(2, causal=True)
    variables = layer.init(jax.random.key(1), X[:, :4], cached(POSITIONS[:, :4]))
    step = jax.jit(lambda v, x, n: layer.apply(v, x, cached(n), mutable=[CACHE]))
    first, cache = step(variables, X[:, :2], POSITIONS[:, :2])
    kept = cache[CACHE]
    more, cache = step({**variables, **cache}, X[:, 2 : 2 + T], POSITIONS[:, 2 : 2 + T])
    for before, after in zip(*map(jax.tree.leaves, (kept, cache[CACHE])), strict=True):
        np.testing.assert_array_equal(before[..., :2], after[..., :2])
    whole = layer.apply(variables, X, CONTEXT)
    y = jnp.concatenate([first, more], axis=1)
    np.testing.assert_allclose(y[:, :4], whole[:, :4], rtol=1e-5, atol=1e-6)
    assert jnp.isnan(y[:, 4:]).all()


def test_the_weights_of_a_row_without_keys_are_those_that_are_used():
    layer = SelfAttention(2)
    mask = jnp.ones((2, 1, 6, 6), bool).at[0, 0, 2].set(False)
    variables = layer.init(jax.random.key(1), X)
    y, found = layer.apply(variables, X, Context(mask=mask), mutable=["intermediates"])
    (weights,) = found["intermediates"]["weights"]
    assert jnp.isfinite(weights).all()
    params = variables["params"]
    v = jnp.einsum("BTD,DNH->BTNH", X, params["key_value"]["kernel"][:, 1])
    mixed = jnp.einsum("BNTS,BSNH->BTNH", weights, v)
    shown = jnp.einsum("BTNH,NHD->BTD", mixed, params["out"]["kernel"])
    np.testing.assert_allclose(shown, y, rtol=1e-4, atol=1e-5)


def test_heads_have_a_size_and_scores_a_scale_of_their_own():
    layer = SelfAttention(3, head_size=5, scale=0.7)
    variables = layer.init(jax.random.key(1), X)
    shapes = {name: leaf["kernel"].shape for name, leaf in variables["params"].items()}
    assert shapes == {"query": (8, 3, 5), "key_value": (8, 2, 3, 5), "out": (3, 5, 8)}
    # A scale is a factor of the queries.
    plain, params = SelfAttention(3, head_size=5), variables["params"]
    scaled = jax.tree.map(lambda leaf: leaf * 0.7 * 5**0.5, params["query"])
    expected = plain.apply({"params": {**params, "query": scaled}}, X)
    np.testing.assert_allclose(layer.apply(variables, X), expected, rtol=1e-5, atol=1e-6)
    assert not jnp.allclose(layer.apply(variables, X), plain.apply(variables, X), atol=1e-3)
    blocks = jax.random.normal(jax.random.key(2), (3, 1, 64, 2, 4))  # the kernel for CPUs
    tripled = attention.attend(*blocks, causal=True, scale=1.5)
    expected = attention.attend(3 * blocks[0], *blocks[1:], causal=True)
    np.testing.assert_allclose(tripled, expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_of_the_weights_in_training_only():
    layer = SelfAttention(2, causal=True, dropout=0.5)
    variables = layer.init(jax.random.key(1), X)
    still = SelfAttention(2, causal=True).apply(variables, X)
    np.testing.assert_array_equal(layer.apply(variables, X), still)

    def dropped(key):
        return layer.apply(variables, X, train=True, rngs={"dropout": key})

    outputs = jax.jit(jax.vmap(dropped))(jax.random.split(jax.random.key(2), 4000))
    # Weights are dropped and scaled up, which leaves the mean; a token that sees itself only has 0
    # or twice its value in each head.
    np.testing.assert_allclose(outputs.mean(0), still, atol=6 * outputs.std() / 4000**0.5)
    assert len(np.unique(np.asarray(outputs[:, 0, 0, 0]).round(4))) == 4
    zero = SelfAttention(2, causal=True, dropout=0.0)
    np.testing.assert_array_equal(zero.apply(variables, X, train=True), still)


def test_a_kernel_can_be_given():
    calls = []

    def attend(q, k, v, mask=None, bias=None, causal=False, window=None, scale=None):
        calls.append((q.shape, causal, window, scale))
        return jnp.zeros_like(q)

    layer = SelfAttention(2, causal=True, window=3, scale=2.0, attend=attend)
    y, _ = layer.init_with_output(jax.random.key(1), X)
    assert not y.any()
    assert calls == [((2, 6, 2, 4), True, 3, 2.0)]
    dropping = SelfAttention(2, dropout=0.1, attend=attend)
    with pytest.raises(UserError, match="default `attend` only"):
        dropping.init({"params": KEY, "dropout": KEY}, X, train=True)
    model = gpt2(11, 8, 8, 1, 2, attend=attend)
    calls.clear()
    jax.eval_shape(model.init, KEY, jnp.zeros((1, 4), jnp.int32))
    assert set(calls) == {((1, 4, 2, 4), True, None, None)}


def test_positions_are_asked_for_where_they_are_needed():
    assert SelfAttention(2).init_with_output(KEY, X)[0].shape == X.shape
    for layer, context in (
        (SelfAttention(2, rotate=positions.Rotary()), Context()),
        (SelfAttention(2, bias=positions.alibi), Context()),
        (SelfAttention(2, causal=True), Context(cache=True)),
    ):
        with pytest.raises(UserError, match=r"give `Context\(positions=...\)`"):
            layer.init(KEY, X, context)


def test_cross_attention_asks_for_a_memory():
    with pytest.raises(UserError, match=r"give `Context\(memory=...\)`"):
        CrossAttention(2).init(KEY, X, Context())


@pytest.mark.parametrize("heads", [0, 3, -2])
def test_features_that_do_not_make_heads_are_refused(heads):
    memory = Context(memory=jnp.zeros((2, 2, 5, 1, 8)))
    for make in (
        lambda: apply(SelfAttention(heads)),
        lambda: CrossAttention(heads).init(jax.random.key(0), X, memory),
        lambda: KeysValues(2, heads).init(jax.random.key(0), X),
    ):
        with pytest.raises(UserError, match=f"8 features cannot be split into {heads} heads"):
            make()
    for groups in (3, 0, -1):
        with pytest.raises(UserError, match=f"keys and values in {groups} equal groups"):
            apply(SelfAttention(4, groups))
    for make in (
        lambda: apply(SelfAttention(4, head_size=0)),
        lambda: KeysValues(0, 2).init(KEY, X),
    ):
        with pytest.raises(UserError, match="is at least 1; got 0"):
            make()


@pytest.mark.parametrize("name", ["width", "depth", "num_heads"])
def test_a_transformer_of_nothing_is_refused(name):
    sizes = {"width": 8, "depth": 2, "num_heads": 2, name: 0}
    for make in (
        lambda: gpt2(11, 8, **sizes),
        lambda: llama(11, 8, **sizes, kv_heads=1, hidden=8),
        lambda: transformer(11, 11, **sizes, hidden=8),
    ):
        with pytest.raises(UserError, match=f"{name} is at least 1; got 0"):
            make()


class NvidiaGpu:
    device_kind = "NVIDIA H100 80GB HBM3"
    compute_capability = "9.0"


class OlderGpu(NvidiaGpu):
    compute_capability = "7.5"


@pytest.mark.parametrize(
    ("backend", "dtype", "shape", "masked", "fused"),
    [
        ("gpu", jnp.bfloat16, (2, 128, 4, 64), False, True),
        ("cpu", jnp.bfloat16, (2, 128, 4, 64), False, False),
        ("gpu", jnp.float32, (2, 128, 4, 64), False, False),
        ("gpu", jnp.bfloat16, (2, 100, 4, 64), False, False),
        ("gpu", jnp.bfloat16, (2, 128, 4, 32), False, False),
        ("gpu", jnp.bfloat16, (2, 128, 4, 64), True, False),
    ],
)
def test_the_fused_kernel_is_asked_for_where_it_is(
    backend, dtype, shape, masked, fused, monkeypatch
):
    q = jnp.zeros(shape, dtype)
    mask = jnp.ones((2, 1, 128, 128), bool) if masked else None
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [NvidiaGpu()])
    assert attention.supports_cudnn(q, q, mask, None, None) is fused


def test_the_fused_kernel_is_not_asked_for_where_it_would_raise(monkeypatch):
    q = jnp.zeros((2, 128, 4, 64), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [OlderGpu()])
    assert not attention.supports_cudnn(q, q, None, None, None)
    monkeypatch.setattr(jax, "devices", lambda: [NvidiaGpu()])
    kinds = (AxisType.Auto,) * 2
    for axis, expected in (("fsdp", True), ("sequence", False)):
        with jax.sharding.use_abstract_mesh(AbstractMesh((2, 2), ("data", axis), kinds)):
            assert attention.supports_cudnn(q, q, None, None, None) is expected


def test_the_fused_kernel_is_not_asked_for_in_a_program_for_other_devices(monkeypatch):
    q = jnp.zeros((2, 128, 4, 64), jnp.bfloat16)
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,)).abstract_mesh
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [NvidiaGpu()])
    with jax.sharding.use_abstract_mesh(mesh):  # of this machine's CPU
        assert not attention.supports_cudnn(q, q, None, None, None)
