"""Blocks and stacks: sublayers, groups, collections of any kind, rematerialisation."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.layers.attention import SelfAttention
from jaxmodels.layers.blocks import Block, Stack, labels, post_norm
from jaxmodels.layers.feedforward import FeedForward
from jaxmodels.models.causal_lm import gpt2, llama
from jaxmodels.models.encoder_decoder import transformer, transformer_multi30k

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 3, 8))


class Probe(nn.Module):
    """Sows a loss, keeps BatchNorm's statistics, draws from a stream of its own."""

    inner: nn.Module = dataclasses.field(default_factory=nn.LayerNorm)

    @nn.compact
    def __call__(self, x, context, train=False):
        self.sow("losses", "layer", context.layer)
        if self.has_rng("noise"):
            self.sow("drawn", "noise", jax.random.normal(self.make_rng("noise"), ()))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(self.inner(x))
        return nn.Dense(x.shape[-1])(x)


class Shift(nn.Module):
    """Adds 1 to everything."""

    @nn.compact
    def __call__(self, x, context, train=False):
        return jnp.ones_like(x)


class Scale(nn.Module):
    """Doubles everything, with the residual connection."""

    @nn.compact
    def __call__(self, x, context, train=False):
        return x


def plain(norm, sublayer, x):
    del norm
    return x + sublayer(x)


def test_sublayers_are_named_by_label_or_class():
    found = labels([FeedForward(4), SelfAttention(2), Probe(), FeedForward(4), FeedForward(4)])
    assert found == ["feedforward", "attention", "probe", "feedforward_2", "feedforward_3"]
    block = Block((FeedForward(4), SelfAttention(2), FeedForward(4)), residual=post_norm)
    params = jax.eval_shape(block.init, KEY, X)["params"]
    names = {"feedforward", "attention", "feedforward_2"}
    assert set(params) == names | {f"{name}_norm" for name in names}


@pytest.mark.parametrize("remat", [None, jax.checkpoint_policies.nothing_saveable])
@pytest.mark.parametrize("unroll", [1, 2])
def test_a_stack_lifts_every_collection_and_stream(remat, unroll):
    stack = Stack((Block((Probe(), Probe())), Block((Probe(),))), 4, remat, unroll)
    streams = {"params": KEY, "noise": jax.random.key(1)}
    variables = jax.jit(stack.init)(streams, X)
    assert set(variables) == {"params", "batch_stats", "losses", "drawn"}
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(variables))
    layers = variables["params"]["layers"]
    assert set(layers) == {"block_0", "block_1"}  # and nothing beside the scan
    assert set(layers["block_1"]["probe"]) == {"inner", "norm", "Dense_0"}
    assert not jnp.array_equal(*layers["block_0"]["probe"]["Dense_0"]["kernel"])

    kept = {name: variables[name] for name in ("params", "batch_stats")}
    run = jax.jit(functools.partial(stack.apply, train=True, mutable=["losses", "batch_stats"]))
    _, changed = run(kept, X)
    losses = changed["losses"]["layers"]
    np.testing.assert_array_equal(losses["block_0"]["probe"]["layer"][0], [0, 2])
    np.testing.assert_array_equal(losses["block_0"]["probe_2"]["layer"][0], [0, 2])
    np.testing.assert_array_equal(losses["block_1"]["probe"]["layer"][0], [1, 3])
    statistics = kept["batch_stats"], changed["batch_stats"]
    for before, after in zip(*map(jax.tree.leaves, statistics), strict=True):
        assert not np.array_equal(before, after)
    drawn = jax.tree.leaves(variables["drawn"])
    assert len({float(x) for leaf in drawn for x in leaf}) == 6


def test_the_blocks_of_a_group_take_turns():
    shift, scale = (Block((layer(),), residual=plain) for layer in (Shift, Scale))
    for blocks, expected in (((shift, scale), 2 * (2 * (1 + 1) + 1)), ((scale, shift), 4 + 2 + 1)):
        y = Stack(blocks, 4).apply({}, jnp.ones((1, 1, 1)))
        assert float(y[0, 0, 0]) == expected


@pytest.mark.parametrize(("group", "depth"), [(0, 2), (2, 3), (1, 0), (2, -2)])
def test_a_depth_that_is_no_multiple_of_the_group_is_refused(group, depth):
    with pytest.raises(UserError, match=f"got {group} blocks and a depth of {depth}"):
        Stack((Block((Shift(),)),) * group, depth).init(KEY, X)


MODELS = {
    "gpt2": lambda: gpt2(11, 16, 16, 2, 4, 0.1, remat=jax.checkpoint_policies.dots_saveable),
    "llama": lambda: llama(11, 16, 16, 2, 4, 2, 24),
    "transformer": lambda: transformer(11, 11, 16, 2, 4, 32),
    "multi30k": lambda: transformer_multi30k(11, 11, 16, 2, 4, 32),
}


@pytest.mark.parametrize("name", MODELS)
def test_equal_models_are_equal_and_compile_once(name):
    make, compiled = MODELS[name], []

    @functools.partial(jax.jit, static_argnums=0)
    def traced(model):
        compiled.append(model)
        return jnp.zeros(())

    assert make() == make()
    assert hash(make()) == hash(make())
    for _ in range(2):
        traced(make())
    assert len(compiled) == 1
    assert make() != gpt2(12, 16, 16, 2, 4)


# Rematerialisation


def step(remat, unroll, depth=4):
    """The compiled gradient of a stack that is large enough to be seen."""
    block = Block((SelfAttention(4, causal=True), FeedForward(256)))
    stack = Stack((block,), depth, remat, unroll)
    x = jax.ShapeDtypeStruct((16, 64, 64), jnp.float32)
    params = jax.eval_shape(stack.init, KEY, x)
    return jax.jit(jax.grad(lambda v, x: jnp.square(stack.apply(v, x)).sum())).lower(params, x)


@pytest.mark.parametrize("unroll", [1, 2, 4, 9])
def test_remat_saves_memory_however_the_loop_is_unrolled(unroll):
    policy = jax.checkpoint_policies.nothing_saveable
    kept, again = (step(remat, unroll).compile() for remat in (None, policy))
    memory = [c.memory_analysis().temp_size_in_bytes for c in (kept, again)]
    assert memory[1] < 0.5 * memory[0]
    # A loop whose body has the block's products, but for its last, a second time.
    loop = step(None, 1).compile()
    products = [c.as_text().count(" dot(") for c in (loop, again)]
    assert products[1] == products[0] + 6
