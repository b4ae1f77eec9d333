"""What is special about Transformers: who sees whom, caches, depth, and the vocabulary's size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import metrics, objectives, sharding, train
from jaxmodels.data import text
from jaxmodels.errors import UserError
from jaxmodels.layers import positions
from jaxmodels.layers.attention import SelfAttention
from jaxmodels.layers.blocks import Block, Stack, pre_norm
from jaxmodels.layers.context import Context
from jaxmodels.layers.dense import OutputDense
from jaxmodels.layers.embeddings import TokenEmbedding
from jaxmodels.layers.feedforward import FeedForward
from jaxmodels.losses import cross_entropy, in_chunks
from jaxmodels.models import causal_lm, encoder_decoder
from jaxmodels.models.causal_lm import CausalLM, gpt2, llama
from jaxmodels.models.encoder import Encoder
from jaxmodels.models.encoder_decoder import transformer
from jaxmodels.typing import CACHE

SAME = {"rtol": 2e-5, "atol": 2e-5}

key = functools.partial(jax.random.key, impl="unsafe_rbg")


def alibi_gpt(**options):
    """ALiBi, a window of 4 tokens, grouped heads."""
    layer = SelfAttention(4, 2, causal=True, window=4, bias=positions.alibi)
    block = Block((layer, FeedForward(64)))
    return CausalLM(TokenEmbedding(11, 16), Stack((block,), 2), 16, **options)


CAUSAL = {
    "gpt": gpt2(11, 16, 16, 2, 4),
    "llama": llama(11, 16, 16, 2, 4, 2, 24),
    "alibi, window": alibi_gpt(),
}
PAIR = transformer(11, 11, 16, 2, 4, 32, context=16)
ONE = sharding.mesh(devices=jax.devices()[:1])
TOKENS = jnp.arange(18).reshape(2, 9) * 7 % 10 + 1


@functools.cache
def jitted(model, **options):
    """The model's outputs, compiled: op by op each of these tests takes seconds."""
    return jax.jit(functools.partial(model.apply, **options))


@functools.cache
def variables(name):
    model = CAUSAL.get(name, PAIR)
    inputs = (TOKENS,) if name in CAUSAL else (TOKENS, TOKENS)
    return jax.jit(model.init)(key(0), *inputs)


def influence(function, x):
    """Which outputs (T) each input (T) changes, of one-hot inputs through an embedding."""
    jacobian = jax.jit(jax.jacobian(lambda x: function(x).sum(-1)))(x)  # T T D
    return np.abs(jacobian).max(-1) > 0


@pytest.mark.parametrize("name", CAUSAL)
def test_gradients_of_the_future_are_zero(name):
    model, params = CAUSAL[name], variables(name)["params"]
    x = jax.random.normal(key(1), (9, 16))

    def run(x):
        bound = model.bind({"params": params})
        return jnp.square(bound.stack(x[None], Context(jnp.arange(9)[None]))[0])

    seen = influence(run, x)
    reach = 7 if "window" in name else 9  # two layers of 4 tokens reach 7
    expected = np.tril(np.ones((9, 9), bool)) & ~np.tril(np.ones((9, 9), bool), -reach)
    np.testing.assert_array_equal(seen, expected)


def test_padding_of_the_source_changes_nothing():
    longer = jnp.pad(TOKENS, ((0, 0), (0, 5)))
    plain = jitted(PAIR)(variables("pair"), TOKENS, TOKENS)
    padded = jitted(PAIR)(variables("pair"), longer, TOKENS)
    np.testing.assert_allclose(padded, plain, **SAME)


def test_what_follows_changes_no_logits_before():
    longer = jnp.pad(TOKENS, ((0, 0), (0, 5)))
    for name, model in CAUSAL.items():
        plain = jitted(model)(variables(name), TOKENS)
        np.testing.assert_allclose(jitted(model)(variables(name), longer)[:, :9], plain, **SAME)


def in_parts(model, variables, tokens, parts, *memory, **options):
    """The logits of tokens that are read in parts."""
    shapes = jax.eval_shape(
        lambda: model.init(key(0), jnp.zeros((2, 12), jnp.int32), *memory, cache=True, **options)
    )[CACHE]
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache))
    found = []
    read = jitted(model, cache=True, mutable=(CACHE,), **options)
    for part in jnp.split(tokens, parts, axis=1):
        outputs, changed = read({**variables, CACHE: cache}, part, *memory)
        cache = changed[CACHE]
        found.append(outputs)
    return jnp.concatenate(found, axis=1)


@pytest.mark.parametrize("parts", [[4, 5, 6, 7, 8], [1, 3]])
@pytest.mark.parametrize("name", CAUSAL)
def test_with_a_cache_as_without(name, parts):
    whole = jitted(CAUSAL[name])(variables(name), TOKENS)
    cached = in_parts(CAUSAL[name], variables(name), TOKENS, parts)
    np.testing.assert_allclose(cached, whole, **SAME)


def test_a_decoder_with_a_cache_as_without():
    memory = jitted(PAIR, method="encode")(variables("pair"), TOKENS[:, :7])
    whole = jitted(PAIR)(variables("pair"), TOKENS[:, :7], TOKENS)
    cached = in_parts(PAIR, variables("pair"), TOKENS, [3, 4, 8], memory, method="decode")
    np.testing.assert_allclose(cached, whole, **SAME)


@pytest.mark.parametrize("name", CAUSAL)
def test_packed_documents_do_not_see_each_other(name):
    segments = jnp.array([[1] * 4 + [2] * 5, [1] * 9])
    packed = jitted(CAUSAL[name])(variables(name), TOKENS, segments)
    alone = jitted(CAUSAL[name])(variables(name), TOKENS[:1, 4:])
    np.testing.assert_allclose(packed[:1, 4:], alone, **SAME)


def test_attention_weights_are_left_where_they_are_asked_for():
    look = jax.jit(functools.partial(encoder_decoder.cross_attention, PAIR))
    memory_weights = look(variables("pair"), TOKENS, TOKENS[:, :5])
    assert memory_weights.shape == (2, 4, 5, 9)
    np.testing.assert_allclose(memory_weights.sum(-1), 1, rtol=1e-5)
    look = jitted(CAUSAL["llama"], mutable=("intermediates",))
    _, found = look(variables("llama"), TOKENS)
    (weights,) = found["intermediates"]["stack"]["layers"]["block"]["attention"]["weights"]
    assert weights.shape == (2, 2, 4, 9, 9)
    assert not np.triu(weights, 1).any()


# Depth


def test_a_deep_stack_is_no_longer_program_than_a_shallow_one():
    def lines(depth, **options):
        model = gpt2(11, 16, 16, depth, 4, **options)
        params = jax.eval_shape(model.init, key(0), TOKENS)
        return len(
            jax.jit(jax.grad(lambda v: model.apply(v, TOKENS).sum()))
            .lower(params)
            .as_text()
            .splitlines()
        )

    assert lines(48) == lines(4)
    assert lines(4, unroll=4) > lines(4)


@pytest.mark.parametrize("policy", ["nothing_saveable", "dots_saveable", "everything_saveable"])
def test_rematerialisation_and_unrolling_change_no_gradient(policy):
    def gradient(model):
        def loss(params):
            return cross_entropy(model.apply({"params": params}, TOKENS), TOKENS).mean()

        return jax.jit(jax.grad(loss))(variables("gpt")["params"])

    remat = gpt2(11, 16, 16, 2, 4, remat=getattr(jax.checkpoint_policies, policy), unroll=2)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(near, gradient(remat), gradient(CAUSAL["gpt"]))


# Positions


def test_rotary_scores_depend_on_the_distance_only():
    q, k = jax.random.normal(key(0), (2, 1, 1, 1, 8))

    def score(at_q, at_k):
        turned = (positions.Rotary()(x, jnp.array([[n]])) for x, n in ((q, at_q), (k, at_k)))
        return float(jnp.vdot(*turned))

    assert score(3, 1) == pytest.approx(score(12, 10), abs=1e-5)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_rotary_positions_ask_for_pairs():
    with pytest.raises(UserError, match="rotate pairs of features; a head has 5"):
        positions.Rotary()(jnp.zeros((1, 2, 1, 5)), jnp.zeros((1, 2), jnp.int32))


def test_sinusoids_are_those_of_the_paper():
    found = positions.SinusoidalPositions(6).apply({}, jnp.arange(4)[None])[0]
    for position in range(4):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(found[position, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(found[position, 2 * i + 1], np.cos(angle), atol=1e-6)


def test_alibi_slopes_are_those_of_the_paper():
    np.testing.assert_allclose(positions.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    # 12 heads: the eight, then every second one of sixteen.
    np.testing.assert_allclose(
        positions.alibi_slopes(12)[8:], 2.0 ** -np.array([0.5, 1.5, 2.5, 3.5])
    )


# Losses


def test_cross_entropy_is_the_negative_log_probability():
    logits = jax.random.normal(key(0), (3, 5, 7))
    targets = jnp.arange(15).reshape(3, 5) % 7
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(logits, targets), -picked, rtol=1e-5)
    smoothed = -(0.9 * picked + 0.1 * log_p.mean(-1))
    np.testing.assert_allclose(cross_entropy(logits, targets, 0.1), smoothed, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_change_neither_losses_nor_gradients(chunk):
    x, table = jax.random.normal(key(0), (2, 9, 4)), jax.random.normal(key(1), (11, 4))

    def plain(x, table):
        return cross_entropy(x @ table.T, TOKENS)

    def chunked(x, table):
        return in_chunks(lambda x, y: cross_entropy(x @ table.T, y), x, TOKENS, chunk)

    np.testing.assert_allclose(chunked(x, table), plain(x, table), rtol=1e-5)

    def gradient(losses):
        return jax.grad(lambda *arguments: losses(*arguments).sum(), (0, 1))(x, table)

    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(near, gradient(chunked), gradient(plain))


def test_in_chunks_the_logits_never_stand_in_memory_together():
    V, model = 50_257, gpt2(50_257, 64, 8, 1, 2, chunk=2)
    batch = {name: jnp.zeros((16, 64), jnp.int32) for name in ("tokens", "targets")}

    def memory(objective):
        params, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
        step = jax.jit(
            lambda p: jax.grad(lambda p: objective(p, {}, batch, jax.random.key(0))[0])(p)
        )
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    whole = memory(objectives.next_token(model))
    chunks = memory(objectives.next_token_in_chunks(model))
    logits = 16 * 64 * V * 4
    assert whole > logits > 10 * chunks


def test_both_ways_of_the_objective_are_one_loss():
    model = CAUSAL["gpt"]
    batch = {"tokens": TOKENS, "targets": TOKENS[:, ::-1], "valid": TOKENS > 3}
    params = variables("gpt")["params"]
    plain, _ = jax.jit(objectives.next_token(model))(params, {}, batch, key(0))
    chunked, _ = jax.jit(objectives.next_token_in_chunks(model))(params, {}, batch, key(0))
    losses = cross_entropy(jitted(model)({"params": params}, TOKENS), batch["targets"])
    assert float(plain) == pytest.approx(float(losses[TOKENS > 3].mean()), rel=1e-5)
    assert float(chunked) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("target", [-1, 11])
def test_a_target_outside_the_vocabulary_costs_nan(target):
    targets = TOKENS.at[0, 3].set(target)
    logits = jax.random.normal(key(0), (2, 9, 11))
    assert jnp.isnan(cross_entropy(logits, targets)).sum() == 1
    batch = {"tokens": TOKENS, "targets": targets, "valid": targets == TOKENS}
    objective = objectives.next_token(CAUSAL["gpt"])
    gradient, _ = jax.jit(jax.grad(objective, has_aux=True))(
        variables("gpt")["params"], {}, batch, key(0)
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_an_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(UserError, match=r"a share in 0..1; got"):
        objectives.seq2seq(PAIR, smoothing)


def test_packed_documents_are_trained_on_and_evaluated_as_each_alone():
    documents = [np.arange(1, 6), np.arange(3, 7), np.arange(2, 9)]
    model, params = CAUSAL["gpt"], variables("gpt")["params"]
    packed, alone = (
        text.pack_documents(documents, 9),
        [text.pack_documents([d], 9) for d in documents],
    )
    results, chunked = (
        train.evaluate(make(model, packed), params, {}, ONE)
        for make in (metrics.next_token, metrics.next_token_in_chunks)
    )
    assert chunked == pytest.approx(results, rel=1e-5)
    own = [train.evaluate(metrics.next_token(model, one), params, {}, ONE) for one in alone]
    weights = [len(d) - 1 for d in documents]
    for name in ("cross_entropy", "accuracy"):
        expected = np.average([one[name] for one in own], weights=weights)
        assert results[name] == pytest.approx(expected, rel=1e-4)
    batch = next(iter(packed.padded(2)))
    for objective in (objectives.next_token, objectives.next_token_in_chunks):
        loss, aux = jax.jit(objective(model))(params, {}, batch, key(0))
        assert float(loss) == pytest.approx(results["cross_entropy"], rel=1e-4)
        assert aux.sums["cross_entropy"].weight == sum(weights)


def test_pre_norm_translators_end_with_norms():
    model = transformer(11, 11, 16, 2, 4, 32, context=16, residual=pre_norm)
    params = jax.jit(model.init)(key(0), TOKENS, TOKENS)["params"]
    decoder = params["decoder"]
    assert "final_norm" in decoder
    assert "final_norm" in params["encoder"]
    assert not any("final_norm" in half for half in variables("pair")["params"].values())
    norm = {**decoder["final_norm"], "bias": jnp.full(16, 9.0)}
    shifted = {**params, "decoder": {**decoder, "final_norm": norm}}
    logits = jitted(model)({"params": params}, TOKENS, TOKENS)
    moved = jitted(model)({"params": shifted}, TOKENS, TOKENS) - logits
    table = decoder["embedding"]["embedding"]
    np.testing.assert_allclose(moved, jnp.broadcast_to(9 * table.sum(1), moved.shape), rtol=1e-3)


def test_label_smoothing_reports_the_plain_loss_too():
    batch = {"source": TOKENS, "target": TOKENS}
    params = variables("pair")["params"]
    plain, _ = jax.jit(objectives.seq2seq(PAIR))(params, {}, batch, key(0))
    smoothed, aux = jax.jit(objectives.seq2seq(PAIR, 0.1))(params, {}, batch, key(0))
    assert float(aux.scalars["cross_entropy"]) == pytest.approx(float(plain))
    assert float(smoothed) != float(plain)


# Sizes and mistakes


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (causal_lm.gpt2_small, 124_439_808),
        (causal_lm.gpt2_medium, 354_823_168),
        (causal_lm.gpt2_large, 774_030_080),
        (causal_lm.gpt2_xl, 1_557_611_200),
        (causal_lm.nanogpt_cpu, 804_096),
        (causal_lm.nanogpt, 10_745_088),
        (causal_lm.llama2_7b, 6_738_415_616),
        (causal_lm.llama3_8b, 8_030_261_248),
        (encoder_decoder.transformer_base, 63_082_496),
        (encoder_decoder.transformer_big, 214_245_376),
        (functools.partial(encoder_decoder.transformer_multi30k, 7_853, 5_893), 9_038_341),
    ],
)
def test_parameter_count_is_the_published_one(make, published):
    model, ids = make(), jax.ShapeDtypeStruct((1, 4), jnp.int32)
    inputs = (ids,) if isinstance(model, CausalLM) else (ids, ids)
    params = jax.eval_shape(model.init, key(0), *inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == published


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match="17 tokens is longer than the model's context of 16"):
        jax.eval_shape(CAUSAL["gpt"].init, key(0), jnp.zeros((1, 17), jnp.int32))
    with pytest.raises(UserError, match="context"):
        jax.eval_shape(PAIR.init, key(0), jnp.zeros((2, 17), jnp.int32), TOKENS)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match="16 features cannot be split into 3 heads"):
        jax.eval_shape(gpt2(11, 16, 16, 1, 3).init, key(0), TOKENS)


def test_an_empty_sequence_is_refused():
    nothing = jnp.zeros((2, 0), jnp.int32)
    for model, inputs in (
        (CAUSAL["gpt"], (nothing,)),
        (PAIR, (nothing, TOKENS)),
        (PAIR, (TOKENS, nothing)),
    ):
        with pytest.raises(UserError, match=r"tokens of shape \(B, T\) with T at least 1"):
            jax.eval_shape(model.init, key(0), *inputs)


def test_sizes_of_nothing_are_refused():
    for make in (
        lambda: gpt2(0, 16, 16, 1, 2),
        lambda: gpt2(11, 0, 16, 1, 2),
        lambda: CausalLM(TokenEmbedding(11, 16), Stack((Block((FeedForward(0),)),), 1), 16),
    ):
        with pytest.raises(UserError, match="is at least 1; got 0"):
            jax.eval_shape(make().init, key(0), TOKENS)


def test_no_spread_of_the_embeddings_is_no_default():
    params = transformer(11, 11, 16, 1, 2, 32, stddev=0.0).init(key(0), TOKENS, TOKENS)["params"]
    assert not params["decoder"]["embedding"]["embedding"].any()


# Parts


def test_an_encoder_stands_alone():
    """A trunk of features without positions, as a ViT's, and one of tokens, as BERT's."""
    stack = Stack((Block((SelfAttention(4), FeedForward(32))),), 2)
    features = jax.random.normal(key(0), (2, 5, 16))
    trunk = Encoder(stack, final_norm=nn.LayerNorm())
    params = jax.jit(trunk.init)(key(1), features)
    assert set(params["params"]) == {"stack", "final_norm"}
    mask = jnp.arange(5)[None, None, None] < jnp.array([5, 3])[:, None, None, None]
    whole, cut = jitted(trunk)(params, features, mask), jitted(trunk)(params, features[1:, :3])
    np.testing.assert_allclose(whole[1:, :3], cut, **SAME)

    embedding = TokenEmbedding(11, 16, positions.LearnedPositions(9, 16))
    trunk = Encoder(stack, embedding)
    params = jax.jit(trunk.init)(key(1), TOKENS)
    assert jitted(trunk)(params, TOKENS).shape == (2, 9, 16)


def test_a_decoder_stands_alone():
    params, target = variables("pair")["params"], TOKENS[:, :4]
    source = jnp.where(TOKENS > 3, TOKENS, 0)
    mask = (source > 0)[:, None, None]
    memory = jitted(PAIR.encoder)({"params": params["encoder"]}, source, mask)
    logits = jitted(PAIR.decoder)({"params": params["decoder"]}, target, memory, mask)
    whole = jitted(PAIR)(variables("pair"), source, target)
    np.testing.assert_allclose(logits, whole, **SAME)


def test_two_languages_share_no_positions_but_one_vocabulary_shares_all():
    learned = positions.LearnedPositions(9, 16)
    two, one = (transformer(n, 11, 16, 1, 2, 32, position_embedding=learned) for n in (11, None))
    shapes = [jax.eval_shape(model.init, key(0), TOKENS, TOKENS)["params"] for model in (two, one)]
    assert set(shapes[0]["encoder"]) == {"embedding", "stack"}
    assert set(shapes[1]["encoder"]) == {"stack"}
    assert "position_embedding" in shapes[0]["encoder"]["embedding"]
    assert "position_embedding" in shapes[1]["decoder"]["embedding"]


def test_logits_of_an_output_layer_are_not_rounded():
    output = OutputDense(11)
    model = transformer(11, 11, 16, 1, 2, 32, context=16, output=output)
    variables = jax.jit(model.init)(key(0), TOKENS, TOKENS)
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    logits = jitted(model)(short, TOKENS, TOKENS)
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9


def test_a_transformer_has_no_recurrent_state():
    batch = {"tokens": TOKENS, "targets": TOKENS, "first": jnp.ones(2, bool)}
    with pytest.raises(UserError, match=r"CausalLM has no recurrent state .* windows"):
        objectives.truncated(CAUSAL["gpt"]).init(key(0), batch)
