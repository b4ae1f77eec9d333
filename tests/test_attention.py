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

X = jax.random.normal(jax.random.key(0), (2, 6, 8))
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
    with pytest.raises(UserError, match="4 heads cannot share keys and values in 3 equal groups"):
        apply(SelfAttention(4, 3))


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
