"""What a page shows of text, and the units of its figures."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from jaxmodels.report.translator import SHOWN
from test_report import check

from jaxmodels import data, report
from jaxmodels.report.verdict import better_by, written


def words(count, seed=0):
    letters = np.random.default_rng(seed).integers(97, 123, (count, 6))
    return ["".join(map(chr, row[: 2 + n % 5])) for n, row in enumerate(letters)]


def attention_map(heads=3, queries=5, keys=7):
    weights = np.random.default_rng(0).dirichlet(np.ones(keys), (heads, queries))
    return report.AttentionMap(weights, words(queries), words(keys, 1))


def page(tmp_path, *sections):
    text = report.write_page(tmp_path / "page.html", "Text", "", sections).read_text()
    check(text)
    return text


def test_samples_are_escaped_and_monospaced(tmp_path):
    section = report.samples(
        {"temperature <1>": ["<b>&\n\tindented\x00\x1b\ud800", "two"]}, "a < b"
    )
    text = page(tmp_path, section)
    assert "<h3>temperature &lt;1&gt;</h3>" in text
    assert "&lt;b&gt;&amp;\n\tindented���</pre>" in text
    assert "white-space:pre-wrap" in text
    assert "a &lt; b" in text


def test_sampling_draws_at_each_temperature_and_says_how_fast(tmp_path):
    asked = []

    def sample(variables, temperature):
        asked.append((variables, temperature))
        return np.full((2, 30), len(asked))

    pictures = report.sampling(sample, lambda ids: f"text {ids}", (0.5, 1.0))
    (section,) = pictures("variables", {})
    # The first call is for compiling, and not counted.
    assert asked == [("variables", 0.5), ("variables", 0.5), ("variables", 1.0)]
    text = page(tmp_path, section)
    assert text.index("temperature 0.5") < text.index("text [2, 2") < text.index("temperature 1<")
    assert "text [3, 3" in text
    assert "text [1" not in text
    assert re.search(r"[\d,]+ tokens per second, 2 samples at a time", text)


def test_translations_stand_side_by_side(tmp_path):
    rows = [("ein <Satz>.", "a sentence!", "one sentence?")]
    text = page(tmp_path, report.translations(rows, "1 < 2"))
    assert text.index("ein &lt;Satz&gt;.") < text.index("a sentence!") < text.index("one sentence?")
    assert '<p class="note">1 &lt; 2</p>' in text


@pytest.mark.parametrize(("count", "shown"), [(100, SHOWN), (2, 2)])
def test_a_translator_is_shown_at_equal_distances_and_with_its_speed(count, shown, tmp_path):
    calls = []

    def translate(variables, source):
        calls.append(source[:, 1] - 4)
        return np.where(source == 2, 5, source)[:, :3] + variables

    def look(variables, source, target):
        return jnp.ones((1, 2, target.shape[1], source.shape[1]))

    sections = report.translator(translate, look, Task(count))(jnp.zeros((), int), {})
    text = page(tmp_path, *sections)
    # The first call is for compiling, and not counted.
    first, second = calls
    np.testing.assert_array_equal(first, second)
    assert (first[0], first[-1], len(first)) == (0, count - 1, shown)
    assert text.count("<tr>") == 1 + shown
    assert f"source {count - 1}" in text
    assert re.search(
        rf"{shown} of {count} sentences; [\d,]+ tokens per second, {shown} sentences at a time",
        text,
    )
    assert [section.title for section in sections] == ["Translations", "Attention"]


class Task:
    """A parallel corpus, as far as the page knows one: sentence n is the word n + 4."""

    def __init__(self, count):
        ids = [[n + 4] for n in range(count)]
        self.pairs = {"test": data.text.pairs(ids, ids)}
        self.sources = {"test": [f"source {n}" for n in range(count)]}
        self.references = {"test": [f"reference {n}" for n in range(count)]}
        self.source = self.target = data.text.word_vocabulary(
            " ".join(f"w{n:03}" for n in range(count))
        )

    def to_sentence(self, ids):
        return self.target.decode(ids)


def test_attention_has_its_words_on_both_axes(tmp_path):
    one = attention_map()
    strange = report.AttentionMap(np.eye(2)[None], ["<a>", "b & c"], ["d", "<eos>"])
    section = report.attention([one, strange])
    text = page(tmp_path, section)
    for word in (*one.queries, *one.keys):
        assert text.count(f">{word}</text>") == 3
    assert text.count("<svg") == 4
    assert "head 3" in text
    assert "&lt;eos&gt;</text>" in text
    # Colours are the page's, light or dark; what is not looked at is transparent.
    assert not re.search(r"#[0-9a-f]{6}", section.html)


def test_attention_of_other_words_is_refused():
    weights, queries, keys = attention_map()
    with pytest.raises(ValueError, match=r"of 4 and 7 words; they have shape \(3, 5, 7\)"):
        report.attention([report.AttentionMap(weights, queries[:4], keys)])


def test_sections_of_several_come_together():
    pictures = report.together(
        lambda variables, measured: [report.translations([("a", "b", "c")])],
        lambda variables, measured: [report.attention([attention_map()])],
    )
    assert [section.title for section in pictures({}, {})] == ["Translations", "Attention"]


@pytest.mark.parametrize("name", ["test/bleu", "test/sacrebleu"])
def test_more_bleu_is_better(name):
    assert better_by(name, 30.5, 29.5) == 1.0
    assert written(name, 30.512) == "30.51"


def test_units_of_text():
    assert written("test/bits_per_character", 1.47123) == "1.471 bits"
    assert written("test/nll", 1.47123) == "1.471 nats"
    assert written("test/perplexity", 82.131) == "82.13"


def test_curves_have_their_units():
    steps = np.arange(3)
    metrics = {
        "train/loss": (steps, 3.0 - steps),
        "validation/cross_entropy": (steps, 3.0 - steps),
        "validation/perplexity": (steps, np.exp(3.0 - steps)),
        "validation/bits_per_character": (steps, 4.0 - steps),
        "train/kl": (steps, 4.0 - steps),
    }
    text = report.curves(metrics).html
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert [re.sub("<.*?>", "", caption) for caption in captions] == [
        "cross-entropy, nats",
        "kl, nats",
        "perplexity",
        "bits per character",
    ]
