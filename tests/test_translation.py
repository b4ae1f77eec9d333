"""Corpora and translators made ready, and what is never written."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import adapters, generate, metrics, sharding, train
from jaxmodels.data import text
from jaxmodels.errors import UserError
from jaxmodels.layers.dense import OutputDense
from jaxmodels.models import encoder_decoder
from jaxmodels.special_tokens import truncate_at_eos

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
PAIR = encoder_decoder.transformer(11, 11, 8, 1, 2, 16, context=9, output=OutputDense(11))
SOURCE = jnp.arange(24).reshape(4, 6) * 5 % 7 + 4


def experiment(name):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_a_corpus_in_subwords_comes_back_as_it_was_written():
    sources = ["Zwei Hunde rennen.", "Ein Mann - mit Hut - sitzt.", "Ein Hund!"]
    targets = ["Two dogs run.", "A man - with a hat - sits.", "A dog!"]
    splits = {"train": (sources, targets), "test": (sources[1:], targets[1:])}
    vocabulary = text.subword_vocabulary([*sources, *targets], 280)
    task = text.subword_translation(text.ParallelCorpus("toy", splits), vocabulary)
    judging = task.bleu_arguments("test")
    found = truncate_at_eos(task.pairs["test"].read(np.array([0, 1]))["target"][:, 1:])
    assert [judging["text"](ids) for ids in found] == judging["references"] == targets[1:]
    cut = [" ".join(judging["tokenize"](line)) for line in targets[1:]]
    assert [judging["words"](ids) for ids in found] == cut
    assert len(task.source) == len(task.target) == len(vocabulary)
    assert task.max_length > 10


@pytest.mark.parametrize("name", ["transformer_multi30k", "gru_multi30k"])
def test_a_beam_size_that_is_none_is_refused_before_a_run_begins(name):
    with pytest.raises(UserError, match="at least one beam; got 0"):
        experiment(name)(dataset="numbers", beam_size=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0,), "from 1 up; got 0"),
        ((9,), "and 9 more make 10; the model's context is 9"),
        ((5, -2), "at least one beam; got -2"),
        ((5, 2, -0.1), "alpha is 0 .* or above; got -0.1"),
        ((5, 2, float("nan")), "got nan"),
    ],
)
def test_a_translator_is_checked_when_it_is_made(arguments, said):
    with pytest.raises(UserError, match=said):
        generate.translator(PAIR, *arguments)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_neither_padding_nor_a_beginning_is_written(beam_size):
    variables = jax.jit(PAIR.init)(jax.random.key(0), SOURCE, SOURCE)
    bias = variables["params"]["decoder"]["output"]["bias"]
    variables["params"]["decoder"]["output"]["bias"] = bias.at[jnp.array([0, 2])].set(99.0)
    found = np.asarray(generate.translator(PAIR, 7, beam_size)(variables, SOURCE))
    for row in found.tolist():
        words = row[: row.index(3)] if 3 in row else row
        assert not {0, 2} & set(words)
        assert not any(row[len(words) + 1 :])


def test_a_source_of_unknown_tokens_is_refused():
    with pytest.raises(UserError, match="tokens are 4 to 11; the model knows 0 to 10"):
        generate.translator(PAIR, 7)({}, SOURCE.at[0, 0].set(11))


@pytest.mark.parametrize("beam_size", [1, 2])
def test_precision_reaches_the_model_of_a_translator(beam_size):
    """With `--precision bf16` bfloat16 params met float32 inputs, and BLEU ended in an error."""
    pairs = text.pairs([[4, 5], [6]], [[4], [5, 6]])
    evaluation = metrics.bleu(
        generate.translator(PAIR, 4, beam_size), pairs, ["a", "b"], str.split, str, str
    )
    cast = adapters.map_model(evaluation, lambda model: adapters.Cast(model, jnp.bfloat16))
    assert cast.model.function.model == adapters.Cast(PAIR, jnp.bfloat16)
    params = PAIR.init(jax.random.key(0), SOURCE, SOURCE)["params"]
    measured = train.evaluate(cast, params, {}, sharding.mesh("data=1", jax.devices()[:1]))
    assert 0 <= measured["bleu"] <= 100
