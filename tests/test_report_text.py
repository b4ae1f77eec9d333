"""Sections of texts and attention, and units of curves."""

import re

import numpy as np
import pytest
from test_report import check

from jaxmodels import report
from jaxmodels.metric import Metric


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


def test_translations_stand_side_by_side(tmp_path):
    rows = [("ein <Satz>.", "a sentence!", "one sentence?")]
    text = page(tmp_path, report.translations(rows, "1 < 2"))
    assert text.index("ein &lt;Satz&gt;.") < text.index("a sentence!") < text.index("one sentence?")
    assert '<p class="note">1 &lt; 2</p>' in text


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


def test_curves_have_their_units():
    steps = np.arange(3)
    metrics = {
        "train/loss": (steps, 3.0 - steps),
        "validation/cross_entropy": (steps, 3.0 - steps),
        "validation/perplexity": (steps, np.exp(3.0 - steps)),
        "validation/bits_per_character": (steps, 4.0 - steps),
        "train/kl": (steps, 4.0 - steps),
    }
    types = {
        "validation/cross_entropy": Metric("nats"),
        "validation/perplexity": Metric(),
        "validation/bits_per_character": Metric("bits"),
        "validation/kl": Metric("nats"),
    }
    text = report.curves(metrics, types).html
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert [re.sub("<.*?>", "", caption) for caption in captions] == [
        "cross-entropy, nats",
        "kl, nats",
        "perplexity",
        "bits per character",
    ]
