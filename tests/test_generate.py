"""Decoding: the samplers' distributions, the loop, beams, and that a cache changes nothing."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import generate
from jaxmodels.adapters.precision import Cast
from jaxmodels.adapters.stateful import Stateful
from jaxmodels.errors import UserError
from jaxmodels.generate.incremental import check_prompt
from jaxmodels.generate.samplers import nucleus
from jaxmodels.models import causal_lm, encoder_decoder, rnn
from jaxmodels.models.rnn_encoder_decoder import bahdanau
from jaxmodels.special_tokens import truncate_at_eos

V = 11
KEY = jax.random.key(0)


class TinyRNN(nn.Module):
    """h[t] = tanh(x[t] + W h[t-1]): the carry is the last h."""

    vocab: int = V

    @nn.compact
    def __call__(self, tokens, train=False, carry=False):
        x = nn.Embed(self.vocab, 8)(tokens)
        weights = self.param("weights", nn.initializers.normal(0.3), (8, 8))
        h = jnp.zeros((tokens.shape[0], 8))
        if carry:
            kept = self.variable("carry", "h", jnp.zeros, h.shape)
            h = kept.value
        h, y = jax.lax.scan(lambda h, x: (jnp.tanh(x + h @ weights),) * 2, h, x.swapaxes(0, 1))
        if carry and not self.is_initializing():
            kept.value = h
        output = nn.Dense(self.vocab, kernel_init=nn.initializers.normal(1.0))
        return output(y.swapaxes(0, 1))


class TinyAttention(nn.Module):
    """One head of causal attention with learned positions, and a cache of keys."""

    vocab: int = V
    context: int = 32

    state_collection = "cache"

    @nn.compact
    def __call__(self, tokens, memory=None, train=False, cache=False):
        B, T = tokens.shape
        at = jnp.zeros((B,), jnp.int32)
        xs = jnp.zeros((B, T, 8))
        if cache:
            kept = self.variable("cache", "x", jnp.zeros, (B, T, 8))
            place = self.variable("cache", "at", jnp.zeros, (B,), jnp.int32)
            xs, at = kept.value, place.value
        positions = at[:, None] + jnp.arange(T)[None]
        x = nn.Embed(self.vocab, 8)(tokens) + nn.Embed(self.context, 8)(positions)
        x = x if memory is None else x + memory[:, None]
        xs = jax.vmap(lambda c, new, n: jax.lax.dynamic_update_slice(c, new, (n, 0)))(xs, x, at)
        if cache and not self.is_initializing():
            kept.value, place.value = xs, at + T
        q, k, v = nn.Dense(8)(x), nn.Dense(8)(xs), nn.Dense(8)(xs)
        scores = jnp.einsum("btd,bsd->bts", q, k)
        seen = jnp.arange(xs.shape[1])[None, None] <= positions[:, :, None]
        y = jnp.einsum("bts,bsd->btd", nn.softmax(jnp.where(seen, scores, -jnp.inf)), v)
        return nn.Dense(self.vocab, kernel_init=nn.initializers.normal(1.0))(x + y)


class TinyTranslator(nn.Module):
    """The mean of the source's embeddings, then a decoder."""

    def setup(self):
        self.embed, self.decoder = nn.Embed(V, 8), TinyAttention()

    def __call__(self, source, target, train=False):
        return self.decode(target, self.encode(source))

    def encode(self, source):
        mask = (source != 0)[..., None]
        return 3 * (self.embed(source) * mask).sum(1) / mask.sum(1)

    state_collection = "cache"

    def decode(self, target, memory, train=False, cache=False):
        return self.decoder(target, memory, train=train, cache=cache)


MODELS = {
    "tiny rnn": TinyRNN(),
    "tiny attention": TinyAttention(),
    "gpt": causal_lm.gpt2(V, 32, 16, 2, 2),
    "llama": causal_lm.llama(V, 32, 16, 2, 4, 2, 24),
    "rnn": rnn.ptb_small(V),
}


@pytest.fixture(params=MODELS, scope="module")
def case(request):
    return made(MODELS[request.param])


@functools.cache
def made(model, seed=1, scale=4.0):
    """Larger params than at first: the likeliest token then is not always the same."""
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32))
    return model, jax.tree.map(lambda leaf: leaf * scale, variables)


def tokens(B=3, T=5, low=0, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(low, V, (B, T)), jnp.int32)


def without_cache(model, variables, prompt, length, key, sampler):
    """Read everything again for each token; causal models do not see what is still zero."""
    T = prompt.shape[1]
    whole = jnp.pad(prompt, ((0, 0), (0, length)))

    @jax.jit
    def go_on(whole, n):
        logits = model.apply(variables, whole)[:, T + n - 1]
        return whole.at[:, T + n].set(sampler(jax.random.fold_in(key, n), logits))

    for n in range(length):
        whole = go_on(whole, n)
    return whole[:, T:]


# With a cache.


def test_with_cache_is_without_cache(case):
    for sampler in (generate.greedy, generate.temperature(1.5)):
        found = generate.sample(*case, tokens(), 12, KEY, sampler)
        expected = without_cache(*case, tokens(), 12, KEY, sampler)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("case", ["rnn", "gpt"], indirect=True)
def test_in_bfloat16_a_cache_changes_nothing_either(case):
    model, variables = case
    arguments = Cast(model), variables, tokens(), 6, KEY, generate.greedy
    np.testing.assert_array_equal(generate.sample(*arguments), without_cache(*arguments))


@pytest.mark.parametrize("case", ["rnn", "gpt"], indirect=True)
def test_a_row_alone_is_a_row_of_the_batch(case):
    found = generate.sample(*case, tokens(), 8, KEY)
    np.testing.assert_array_equal(generate.sample(*case, tokens()[1:2], 8, KEY), found[1:2])


def test_a_longer_sample_begins_with_the_shorter_one():
    case = made(TinyRNN())
    long, short = (generate.sample(*case, tokens(), n, KEY, generate.top_k(5)) for n in (12, 4))
    np.testing.assert_array_equal(long[:, :4], short)


@pytest.mark.parametrize("case", ["rnn", "gpt", "llama"], indirect=True)
def test_prompts_of_unequal_lengths_go_on_as_each_alone(case):
    prompts = [tokens()[n : n + 1, :T] for n, T in enumerate((2, 5, 3))]
    rows = np.concatenate([np.pad(p, ((0, 0), (0, 5 - p.shape[1]))) for p in prompts])
    alone = np.concatenate([generate.sample(*case, p, 8, KEY) for p in prompts])
    found = generate.sample(*case, rows, 8, KEY, lengths=np.array([2, 5, 3]))
    np.testing.assert_array_equal(found, alone)
    stop = int(alone[1, 2])
    alone = [generate.sample(*case, p, 8, KEY, stop=stop)[0] for p in prompts]
    found = generate.sample(*case, rows, 8, KEY, stop=stop, lengths=np.array([2, 5, 3]))
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("lengths", [[0, 1, 1], [1, 1, 9]])
def test_lengths_that_are_none_of_the_prompts_are_refused(lengths):
    with pytest.raises(UserError, match="3 numbers from 1 to"):
        generate.sample(*made(TinyRNN()), tokens(), 4, KEY, lengths=np.array(lengths))


def test_the_key_decides():
    case = made(TinyRNN())
    samples = [
        generate.sample(*case, tokens(), 12, jax.random.key(n), generate.temperature(2.0))
        for n in (1, 1, 2)
    ]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert (samples[0] != samples[2]).any()


def test_a_carry_among_the_variables_is_not_gone_on_from():
    model, variables = made(TinyRNN())
    used = {**variables, "carry": {"h": jnp.ones((3, 8))}}
    np.testing.assert_array_equal(
        generate.sample(model, used, tokens(), 12, KEY),
        generate.sample(model, variables, tokens(), 12, KEY),
    )


def test_a_stateful_model_is_sampled_as_its_model():
    model, variables = made(TinyRNN())
    np.testing.assert_array_equal(
        generate.sample(Stateful(model), variables, tokens(), 12, KEY),
        generate.sample(model, variables, tokens(), 12, KEY),
    )


def test_one_compilation(caplog):
    model, variables = made(TinyRNN(vocab=V + 1))  # which no other test compiles
    makers = {
        "temperature": lambda x: generate.temperature(x),
        "top_k": lambda x: generate.top_k(3, x),
        "top_p": lambda x: generate.top_p(x, 2 * x),
        "greedy": lambda x: generate.greedy,
    }
    with jax.log_compiles():
        for make in makers.values():
            compilations(caplog)
            for n, value in enumerate((0.3, 0.8)):
                generate.sample(
                    model, variables, tokens(seed=n), 6, jax.random.key(n), make(value), stop=n
                )
            assert compilations(caplog) == 1
        again = TinyRNN(vocab=V + 1)  # equal models share it too
        generate.sample(again, variables, tokens(), 6, KEY)
        assert compilations(caplog) == 0
        for n, alpha in enumerate((0.0, 1.0)):
            generate.beam_search(
                generate.causal(model), variables, tokens(seed=n), 6, 3, alpha, stop=n
            )
        assert compilations(caplog) == 1


def compilations(caplog):
    """How many loops were compiled since the last question."""
    names = "Compiling jit(_decode)", "Compiling jit(_beam_search)"
    found = [m for m in caplog.messages if m.startswith(names)]
    caplog.clear()
    return len(found)


# Ends.


class Counting:
    """No network: what follows token n is n + 1; `calls` counts how often it was asked."""

    def __init__(self):
        self.calls = []

    def init(self, rngs, tokens, carry):
        return {"carry": jnp.zeros((tokens.shape[0], 1))}

    def apply(self, variables, tokens, carry, mutable):
        jax.debug.callback(lambda: self.calls.append(tokens.shape[1]))
        return 9.0 * jax.nn.one_hot((tokens + 1) % V, V), {"carry": variables["carry"] + 1}


def test_rows_that_have_ended_are_filled_and_the_loop_ends():
    model = Counting()
    prompt = jnp.array([[0, 1], [0, 3], [9, 4]])
    found = generate.sample(model, {}, prompt, 9, KEY, stop=5, pad=7)
    expected = [[2, 3, 4, 5] + [7] * 5, [4, 5] + [7] * 7, [5] + [7] * 8]
    np.testing.assert_array_equal(found, expected)
    jax.effects_barrier()
    assert model.calls == [2, 1, 1, 1]  # the prompt at once, and no step once all have ended


def test_without_a_stop_no_token_ends_a_row():
    found = generate.sample(Counting(), {}, jnp.array([[3]]), 5, KEY)
    np.testing.assert_array_equal(found, [[4, 5, 6, 7, 8]])


def test_until():
    rows = np.array([[5, 3, 7], [3, 3, 3], [5, 6, 7]])
    assert truncate_at_eos(rows) == [[5], [], [5, 6, 7]]
    assert truncate_at_eos(rows, stop=7) == [[5, 3], [3, 3, 3], [5, 6]]


# Samplers.

SKEWED = jnp.log(jnp.array([0.05, 0.4, 0.05, 0.3, 0.2]))


def frequencies(sampler, logits, draws=20_000):
    """How often each id is drawn, and the standard error of that share."""
    ids = sampler(KEY, jnp.tile(logits[None], (draws, 1)))
    assert ids.dtype == jnp.int32
    return np.bincount(np.asarray(ids), minlength=logits.size) / draws


def assert_drawn_from(sampler, logits, expected, draws=20_000):
    expected = np.asarray(expected)
    found = frequencies(sampler, logits, draws)
    # Five standard errors: one in two million; what cannot come never does.
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws)).all()


def test_greedy():
    logits = jnp.array([[0.0, 2.0, 2.0], [3.0, -1.0, 1.0]])
    np.testing.assert_array_equal(generate.greedy(KEY, logits), [1, 0])


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_temperature(t):
    expected = jax.nn.softmax(SKEWED / t)
    assert_drawn_from(generate.temperature(t), SKEWED, expected)


def test_near_zero_temperature_is_greedy():
    assert frequencies(generate.temperature(1e-4), SKEWED, 1000)[1] == 1


def test_top_k():
    assert_drawn_from(generate.top_k(1), SKEWED, [0, 1, 0, 0, 0])
    assert_drawn_from(generate.top_k(3), SKEWED, np.array([0, 4, 0, 3, 2]) / 9)
    # Of the two with 0.05 the lower id.
    assert_drawn_from(generate.top_k(4), SKEWED, np.array([5, 40, 0, 30, 20]) / 95)
    assert_drawn_from(generate.top_k(99), SKEWED, np.exp(SKEWED))
    squared = np.array([0, 16, 0, 9, 4]) / 29
    assert_drawn_from(generate.top_k(3, temperature=0.5), SKEWED, squared)


def test_the_nucleus_of_the_likeliest():
    # Of 4, 3, 2 ninths two are enough for a mass of 0.7; of all tokens three are.
    assert_drawn_from(generate.top_p(0.7, k=3), SKEWED, np.array([0, 4, 0, 3, 0]) / 7)
    assert_drawn_from(generate.top_p(0.8, 0.5, k=4), SKEWED, np.array([0, 16, 0, 9, 0]) / 25)
    with pytest.raises(UserError, match="from 1 up; got k = 0"):
        generate.top_p(0.5, k=0)


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (1e-6, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 3, 4}),
        (0.91, {0, 1, 3, 4}),
        (0.96, {0, 1, 2, 3, 4}),
        (1.0, {0, 1, 2, 3, 4}),
    ],
)
def test_the_nucleus_is_the_smallest_set_of_mass_p(p, kept):
    found = nucleus(SKEWED[None], p)[0]
    assert set(np.flatnonzero(np.isfinite(found)).tolist()) == kept
    np.testing.assert_array_equal(found[jnp.array(sorted(kept))], SKEWED[jnp.array(sorted(kept))])


def test_the_nucleus_on_exact_masses():
    logits = jnp.log(jnp.array([[0.25, 0.25, 0.5], [0.125, 0.75, 0.125]]))
    np.testing.assert_array_equal(jnp.isfinite(nucleus(logits, 0.75)), [[1, 0, 1], [0, 1, 0]])


def test_a_whole_nucleus_loses_no_tail():
    logits = jnp.array([[0.0, *[-40.0] * 50]])
    assert jnp.isfinite(nucleus(logits, 1.0)).all()


def test_top_p():
    assert_drawn_from(generate.top_p(0.8), SKEWED, np.array([0, 4, 0, 3, 2]) / 9)
    # The temperature comes first: cooled to 16, 9, 4 of 29.5, two tokens are enough.
    assert_drawn_from(generate.top_p(0.8, 0.5), SKEWED, np.array([0, 16, 0, 9, 0]) / 25)


@pytest.mark.parametrize("t", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperatures(t):
    for make in (
        generate.temperature,
        lambda t: generate.top_k(2, t),
        lambda t: generate.top_p(0.5, t),
    ):
        with pytest.raises(UserError, match=r"above 0; got .*`greedy`"):
            make(t)


@pytest.mark.parametrize("k", [0, -1])
def test_bad_k(k):
    with pytest.raises(UserError, match="from 1 up; got k = "):
        generate.top_k(k)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.01, float("nan")])
def test_bad_p(p):
    with pytest.raises(UserError, match="above 0 and up to 1; got"):
        generate.top_p(p)


# What cannot be gone on from.


def test_bad_lengths():
    model, variables = made(TinyAttention())

    def go(prompt, length):
        return generate.sample(model, variables, prompt, length, KEY)

    assert go(tokens(T=20), 12).shape == (3, 12)
    with pytest.raises(UserError, match="20 tokens and 13 more make 33; the model's context is 32"):
        go(tokens(T=20), 13)
    with pytest.raises(UserError, match="prompt is empty"):
        go(tokens(T=0), 3)
    with pytest.raises(UserError, match="from 1 up; got 0"):
        go(tokens(), 0)


def test_prompts_of_another_kind():
    decoder = generate.causal(TinyAttention())
    for prompt in (jnp.zeros((3,), jnp.int32), jnp.zeros((3, 2))):
        with pytest.raises(UserError, match=r"integers \(B, T\); got .* of shape \(3,"):
            check_prompt(decoder, prompt, 3)


def test_bad_beams():
    model, variables = made(TinyAttention())
    decoder = generate.causal(model)
    with pytest.raises(UserError, match="at least one beam; got 0"):
        generate.beam_search(decoder, variables, tokens(), 3, 0)
    for alpha in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="The length penalty alpha is 0"):
            generate.beam_search(decoder, variables, tokens(), 3, 2, alpha)
    with pytest.raises(UserError, match="and 30 more make 35"):
        generate.beam_search(decoder, variables, tokens(), 30, 2)


# Beams.


@pytest.mark.parametrize("case", ["tiny rnn", "gpt"], indirect=True)
@pytest.mark.parametrize("stop", [None, 3])
def test_one_beam_is_greedy(case, stop):
    prompt = tokens(B=8)
    decoder = generate.causal(case[0])
    found, scores = generate.beam_search(
        decoder, case[1], prompt, 10, beams=1, alpha=0.0, stop=stop
    )
    np.testing.assert_array_equal(found, generate.sample(*case, prompt, 10, KEY, stop=stop))
    np.testing.assert_allclose(scores, log_p(*case, prompt, found, stop), rtol=1e-4, atol=1e-6)


def log_p(model, variables, prompt, found, stop):
    """The log-probability of what was found, `stop` included, in nats."""
    whole = np.concatenate([prompt, found], axis=1)
    logits = np.asarray(jax.jit(model.apply)(variables, whole), np.float64)
    logits = logits[:, prompt.shape[1] - 1 : -1]
    nats = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = np.take_along_axis(nats, np.asarray(found)[..., None], axis=-1)[..., 0]
    ends = np.equal(found, -1 if stop is None else stop)
    return np.where(np.cumsum(ends, axis=1) - ends == 0, each, 0).sum(axis=1)


def all_sequences(model, variables, prompt, length, stop):
    """All that end by `stop`, filled up with 0, how long they are, and log p of each (B, all)."""
    others = [w for w in range(model.vocab) if w != stop]
    ended = [(*words, stop) for n in range(length) for words in itertools.product(others, repeat=n)]
    filled = np.array([[*words, *[0] * (length - len(words))] for words in ended])
    B, number = len(prompt), len(ended)
    prompts, found = np.repeat(prompt, number, axis=0), np.tile(filled, (B, 1))
    nats = log_p(model, variables, prompts, found, stop).reshape(B, number)
    return filled, np.array([len(words) for words in ended]), nats


@pytest.mark.parametrize("kind", [TinyRNN, TinyAttention])
def test_enough_beams_are_exhaustive(kind):
    model, variables = made(kind(vocab=4), scale=1.5)
    prompt = tokens(B=6) % 4
    filled, lengths, nats = all_sequences(model, variables, prompt, 3, stop=3)
    chosen = set()
    for alpha in (0.0, 0.6, 2.0):
        found, scores = generate.beam_search(
            generate.causal(model), variables, prompt, 3, beams=4**3, alpha=alpha, stop=3
        )
        expected = nats / ((5 + lengths) / 6) ** alpha
        best = expected.argmax(axis=1)
        np.testing.assert_array_equal(found, filled[best])
        np.testing.assert_allclose(scores, expected.max(axis=1), rtol=1e-5)
        chosen |= set(zip([alpha] * 6, lengths[best], strict=True))
    assert len(chosen) > 3  # the penalty has something to decide


def test_more_beams_find_what_is_likelier():
    model, variables = made(TinyRNN(), scale=1.5)
    decoder = generate.causal(model)
    scores = [
        generate.beam_search(decoder, variables, tokens(B=16), 8, beams, 0.0)[1]
        for beams in (1, 3, 30)
    ]
    # Pruning may lose the best beginning, so not in every row; equal ones differ by rounding.
    assert scores[0].mean() < scores[1].mean() <= scores[2].mean() + 1e-5


def test_an_open_sequence_is_given_where_none_has_ended():
    model = Counting()
    found, scores = generate.beam_search(
        generate.causal(model), {}, jnp.array([[0]]), 3, beams=2, alpha=1.0, stop=9, pad=9
    )
    np.testing.assert_array_equal(found, [[1, 2, 3]])
    one = jax.nn.log_softmax(9.0 * jax.nn.one_hot(jnp.array([0]), V))[0, 0]
    np.testing.assert_allclose(scores, [3 * one / (8 / 6)], rtol=1e-3)


def test_the_search_ends_when_nothing_can_be_better():
    model = Counting()
    found, _ = generate.beam_search(
        generate.causal(model), {}, jnp.array([[1], [2]]), 30, beams=2, stop=5, pad=7
    )
    np.testing.assert_array_equal(found[:, :5], [[2, 3, 4, 5, 7], [3, 4, 5, 7, 7]])
    jax.effects_barrier()
    assert len(model.calls) < 8


@pytest.mark.parametrize("case", ["tiny attention", "gpt"], indirect=True)
def test_a_row_of_beams_does_not_depend_on_the_others(case):
    decoder = generate.causal(case[0])
    prompt = tokens(B=5)
    found, scores = generate.beam_search(decoder, case[1], prompt, 9, beams=3, stop=3)
    for n in (0, 3):
        one, score = generate.beam_search(decoder, case[1], prompt[n : n + 1], 9, beams=3, stop=3)
        np.testing.assert_array_equal(one[0], found[n])
        np.testing.assert_allclose(score[0], scores[n], rtol=1e-4)


# Translation.

TRANSLATORS = {
    "tiny": TinyTranslator(),
    "transformer": encoder_decoder.transformer(V, V, 16, 2, 2, 32, context=32),
    "gru": bahdanau(V, V, 8, 8, kernel_init=nn.initializers.normal(0.5)),
}


@pytest.fixture(params=TRANSLATORS, scope="module")
def translator(request):
    model = TRANSLATORS[request.param]
    init = jax.jit(model.init)
    variables = init(jax.random.key(2), tokens(1, 4, low=4), jnp.zeros((1, 3), jnp.int32))
    return model, jax.tree.map(lambda leaf: leaf * 3.0, variables)


def test_greedy_translation_is_that_without_a_cache(translator):
    model, variables = translator
    source = tokens(6, 5, low=4)
    found = generate.translate(model, variables, source, 7)
    target = jnp.zeros((6, 8), jnp.int32).at[:, 0].set(2)
    apply = jax.jit(model.apply)
    for n in range(7):
        logits = apply(variables, source, target)[:, n]
        possible = logits.at[:, jnp.array([0, 2])].set(-jnp.inf)
        target = target.at[:, n + 1].set(possible.argmax(-1).astype(jnp.int32))
    assert truncate_at_eos(np.asarray(found)) == truncate_at_eos(np.asarray(target[:, 1:]))
    assert len(np.unique(found, axis=0)) > 1


def test_padding_of_the_source_changes_nothing(translator):
    source = tokens(6, 5, low=4)
    padded = jnp.pad(source, ((0, 0), (0, 3)))
    np.testing.assert_array_equal(
        generate.translate(*translator, padded, 7, beam_size=4),
        generate.translate(*translator, source, 7, beam_size=4),
    )


def test_beams_look_at_their_own_source(translator):
    source = tokens(6, 5, low=4)
    found = generate.translate(*translator, source, 7, beam_size=4)
    alone = [generate.translate(*translator, row[None], 7, beam_size=4) for row in source[:3]]
    np.testing.assert_array_equal(jnp.concatenate(alone), found[:3])


def test_a_text_beyond_the_context_goes_on_from_its_second_half():
    model = causal_lm.gpt2(11, 8, 16, 1, 2)
    prompt = jnp.array([[1, 2, 3], [4, 5, 6]])
    variables = jax.jit(model.init)(jax.random.key(0), prompt)
    found = generate.generate(model, variables, prompt, 20, jax.random.key(1), generate.greedy)
    assert found.shape == (2, 20)
    short = generate.sample(model, variables, prompt, 5, jax.random.key(1))
    np.testing.assert_array_equal(found[:, :5], short)
    seen = jnp.concatenate([prompt, found], axis=1)[:, 4:8]
    more = generate.sample(model, variables, seen, 4, jax.random.key(1))
    np.testing.assert_array_equal(found[:, 5:9], more)
    with pytest.raises(UserError, match="a context of 8 tokens a prompt has 1 to 4"):
        generate.generate(
            model, variables, seen[:, [0, 1, 2, 3, 0]], 20, jax.random.key(1), generate.greedy
        )


@pytest.mark.parametrize("prompt", [[[1, 2, V]], [[-1, 3, 3]]])
def test_tokens_that_the_model_does_not_know_are_refused(prompt):
    model, variables = made(MODELS["gpt"])
    for go_on in (
        lambda: generate.sample(model, variables, np.array(prompt), 3, KEY),
        lambda: generate.beam_search(generate.causal(model), variables, np.array(prompt), 3, 2),
    ):
        with pytest.raises(UserError, match=r"tokens are -?\d+ to \d+; the model knows 0 to 10"):
            go_on()


# What has no answer, and what is very small.


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A model made of a model, which forwards its attributes."""

    model: nn.Module

    def init(self, *args, **kwargs):
        return self.model.init(*args, **kwargs)

    def apply(self, *args, **kwargs):
        return self.model.apply(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.model, name)


@pytest.mark.parametrize("wrap", [Wrapper, Cast])
def test_an_adapter_does_not_hide_where_the_context_ends(wrap):
    model, variables = made(MODELS["gpt"])
    with pytest.raises(UserError, match="5 tokens and 40 more make 45; the model's context is 32"):
        generate.sample(wrap(model), variables, tokens(), 40, KEY)
    found = generate.sample(Wrapper(model), variables, tokens(), 6, KEY)
    np.testing.assert_array_equal(found, generate.sample(model, variables, tokens(), 6, KEY))


@pytest.mark.parametrize("name", ["gpt", "rnn"])
def test_params_of_nan_are_refused_where_they_are_used(name):
    model, variables = made(MODELS[name])
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    for use in (
        lambda: generate.sample(model, broken, tokens(), 6, KEY),
        lambda: generate.sample(model, broken, tokens(), 6, KEY, generate.top_p(0.5)),
        lambda: generate.beam_search(generate.causal(model), broken, tokens(), 6, 3, stop=3),
    ):
        with pytest.raises(UserError, match="logits are NaN"):
            use()


def test_a_translator_of_nan_is_refused(translator):
    model, variables = translator
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    for beams in (1, 2):
        with pytest.raises(UserError, match="logits are NaN"):
            generate.translate(model, broken, tokens(2, 5, low=4), 7, beams)


@pytest.mark.parametrize("stop", [None, 0])
@pytest.mark.parametrize("beams", [1, 3])
def test_beams_of_a_single_token(beams, stop):
    model, variables = made(TinyRNN(vocab=1))
    prompt = jnp.zeros((2, 3), jnp.int32)
    found, scores = generate.beam_search(
        generate.causal(model), variables, prompt, 4, beams, stop=stop, pad=7
    )
    expected = [0, 0, 0, 0] if stop is None else [0, 7, 7, 7]
    np.testing.assert_array_equal(found, [expected] * 2)
    np.testing.assert_allclose(scores, 0, atol=1e-6)
    np.testing.assert_array_equal(generate.sample(model, variables, prompt, 4, KEY), 0)


@pytest.mark.parametrize("t", [1e-30, 1e-38, 1e-44, 1e-300])
@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_the_smallest_temperatures_are_greedy(t, shift):
    for sampler in (
        generate.temperature(t),
        generate.top_k(3, t),
        generate.top_p(0.9, t),
        generate.top_p(0.9, t, k=3),
    ):
        assert frequencies(sampler, SKEWED + shift, 100)[1] == 1


def test_no_rows_have_no_continuations():
    model, variables = made(TinyRNN())
    nothing = np.zeros((0, 3), np.int32)
    assert generate.sample(model, variables, nothing, 4, KEY).shape == (0, 4)
    found, scores = generate.beam_search(generate.causal(model), variables, nothing, 4, 2)
    assert found.shape == (0, 4)
    assert scores.shape == (0,)


@pytest.mark.parametrize("T", [0, 3])
def test_a_length_of_nothing_is_refused_at_any_length_of_the_context(T):
    model, variables = made(MODELS["gpt"])
    with pytest.raises(UserError, match=r"empty|from 1 up; got 0"):
        generate.generate(model, variables, tokens(T=T), 0, KEY)
