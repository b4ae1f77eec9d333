"""Inspections: the same on one device, on eight, and in two processes; what they show."""

import base64
import dataclasses
import functools
import io
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_inspections
from PIL import Image
from test_processes import finish, free_address
from test_report import check
from tiny_inspections import Task, inspections, show
from tiny_run import quietly, tiny

from jaxmodels import adapters, data, inspect, report, sharding
from jaxmodels.inspect import on_mesh
from jaxmodels.inspect.translations import SHOWN

EVERY = inspections()
ONE = sharding.mesh("data=1", jax.devices()[:1])
EIGHT = "data=4,fsdp=2"
PNG = re.compile('data:image/png;base64,([^"]*)')


@functools.cache
def on_one(name):
    return show(*EVERY[name], ONE)


def assert_same(found, expected):
    """The same sections: pictures up to one step of 256, for sums in another order round so."""
    assert found.keys() == expected.keys()
    for title in found:
        assert PNG.sub("", found[title]) == PNG.sub("", expected[title])
        for one, other in zip(
            *(map(pixels, PNG.findall(s[title])) for s in (found, expected)), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1)


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), np.int32)


# The mesh.


@pytest.mark.parametrize("name", EVERY)
def test_a_mesh_changes_no_section(name):
    assert_same(show(*EVERY[name], sharding.mesh(EIGHT)), on_one(name))


def test_two_processes_show_what_one_shows(tmp_path):
    joined = "data=2,fsdp=2", free_address(), "2"
    files = [tmp_path / f"{number}.json" for number in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, tiny_inspections.__file__, str(file), *joined, str(number)],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, file in enumerate(files)
    ]
    finish(processes)
    for found in (json.loads(file.read_text()) for file in files):
        assert found.keys() == EVERY.keys()
        for name in found:
            assert_same(found[name], on_one(name))


def test_rows_are_split_over_the_devices():
    """Every device computed all rows: eight times the memory that one needs for them."""
    seen = []

    def double(variables, x):
        jax.debug.inspect_array_sharding(x, callback=lambda s: seen.append(s.shard_shape(x.shape)))
        return variables * x

    x = np.arange(10.0, dtype=np.float32)[:, None]
    doubled = on_mesh.map_rows(double, sharding.mesh(EIGHT))(jnp.float32(2), x)
    assert seen == [(2, 1)]  # ten rows, padded to sixteen
    np.testing.assert_array_equal(doubled, 2 * x)


# Precision.


def test_precision_reaches_every_model_of_a_report():
    """It left out the models of a `concat`, which then ran in float32."""
    made = tiny()
    model, split = made.evaluate["test"].model, made.evaluate["test"].split

    def plain(variables, metrics, mesh):
        return []

    both = inspect.concat(inspect.classification(model, split), plain)
    cast = dataclasses.replace(made, report=both).in_precision(jnp.bfloat16)
    assert cast.report.parts == (
        dataclasses.replace(both.parts[0], model=adapters.Cast(model, jnp.bfloat16)),
        plain,
    )
    assert dataclasses.replace(made, report=plain).in_precision(jnp.bfloat16).report is plain


@pytest.mark.parametrize("name", EVERY)
def test_every_inspection_runs_in_bfloat16(name):
    inspection, inputs = EVERY[name]
    cast = adapters.map_model(inspection, lambda model: adapters.Cast(model, jnp.bfloat16))
    assert show(cast, inputs, ONE).keys() == on_one(name).keys()


# Failures.


def test_one_that_fails_takes_no_other_with_it():
    def broken(variables, metrics, mesh):
        raise ValueError("no such field")

    def fine(variables, metrics, mesh):
        return [report.Section("Fine", "shown")]

    found = inspect.concat(broken, fine)({}, {}, ONE)
    assert [section.title for section in found] == ["broken", "Fine"]
    assert "ValueError: no such field" in found[0].html


def test_a_page_never_costs_the_run(tmp_path, monkeypatch):
    """A section of numbers that failed, such as the curves, ended a run that had succeeded."""

    def broken(*arguments):
        raise ValueError("as if it failed")

    def make(steps: int = 2):
        """A run whose own section fails.

        Args:
            steps: updates.
        """
        return dataclasses.replace(tiny(steps=steps), report=broken)

    monkeypatch.setattr(report, "curves", broken)
    outcome, printed = quietly(make, "--out", tmp_path / "run")
    text = (outcome.folder / "report.html").read_text()
    check(text)
    assert text.count("ValueError: as if it failed") == 2
    for title in "Result", "Learning curves", "Report", "Cost", "Parameters", "Settings":
        assert f"<h2>{title}</h2>" in text
    assert "test/error" in printed
    assert (outcome.folder / "results.json").exists()


# Classifiers.


def images(size):
    """Images whose class is their brightest column."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, size)
    image = rng.integers(0, 100, (size, 4, 4, 1)).astype(np.uint8)
    image[np.arange(size), :, label] += 120
    return data.split({"image": image, "label": label}, "images/test", 4)


def classifier(variables, images):
    return images.mean(axis=(1, 3)) @ variables["params"]["dense"]["kernel"][:4]


def test_classification():
    split = images(13)
    kernel = jnp.zeros((16, 4)).at[:4].set(20 * jnp.eye(4))
    model = adapters.FunctionModel(classifier)
    shown = inspect.classification(model, split, batch_size=8)
    sections = shown({"params": {"dense": {"kernel": kernel}}}, {}, sharding.mesh(EIGHT))
    assert [s.title for s in sections] == ["Predictions", "Confusion", "First-layer filters"]
    assert "0 of 0 wrong" in sections[0].html
    assert "13 of 13 right" in sections[0].html
    assert "No mistakes." in sections[1].html
    counts = [int(n) for n in re.findall('class="right">(.*?)<', sections[1].html)]
    label = split.read(np.arange(13))["label"]
    assert counts == np.bincount(label, minlength=4).tolist()


def test_a_classifier_of_tokens_has_a_confusion_matrix():
    """It had no section at all: its tokens were drawn as if they were images."""
    tokens = np.random.default_rng(0).integers(0, 4, (13, 5)).astype(np.int32)
    split = data.split({"tokens": tokens, "topic": tokens[:, 0]}, "texts/test", 4)
    model = adapters.FunctionModel(lambda variables, tokens: jax.nn.one_hot(tokens[:, 0], 4))
    shown = inspect.classification(model, split, ("tokens",), "topic")
    (section,) = shown({"params": {}}, {}, ONE)
    assert section.title == "Confusion"
    assert "No mistakes." in section.html


# Texts.


def test_samples_of_each_temperature_and_their_speed(monkeypatch):
    calls = []

    def generate(model, variables, prompt, length, key, sampler):
        calls.append(np.asarray(prompt))
        return jnp.full((len(prompt), length), len(calls))

    monkeypatch.setattr(sys.modules["jaxmodels.inspect.text"], "generate", generate)
    model = adapters.FunctionModel(lambda variables: None)
    shown = inspect.text_samples(model, [7, 8], lambda ids: f"text {ids}", 30, 2, (0.5, 1.0))
    (section,) = shown({}, {}, ONE)
    # The first call is for compiling, and not counted.
    assert len(calls) == 3
    np.testing.assert_array_equal(calls[0], [[7, 8], [7, 8]])
    text = section.html
    assert text.index("temperature 0.5") < text.index("text [2, 2") < text.index("temperature 1<")
    assert "text [3, 3" in text
    assert "text [1" not in text
    assert re.search(r"[\d,]+ tokens per second, 2 samples at a time", text)


@pytest.mark.parametrize(("count", "shown"), [(100, SHOWN), (2, 2)])
def test_translations_at_equal_distances_and_their_speed(count, shown, monkeypatch):
    calls = []

    def translate(variables, source):
        calls.append(np.asarray(source)[:, 1] - 4)
        return jnp.where(source == 2, 5, source)[:, :3]

    def weights(model, variables, source, target):
        return jnp.ones((len(source), 2, target.shape[1], source.shape[1]))

    module = sys.modules["jaxmodels.inspect.translations"]
    monkeypatch.setattr(module, "translator", lambda *arguments: translate)
    model = adapters.FunctionModel(lambda variables: None)
    sections = inspect.translations(model, Task(count), attention_fn=weights)({}, {}, ONE)
    assert [section.title for section in sections] == ["Translations", "Attention"]
    text = "".join(section.html for section in sections)
    # The first call is for compiling, and not counted.
    first, second = calls
    np.testing.assert_array_equal(first, second)
    assert (first[0], first[-1], len(first)) == (0, count - 1, shown)
    assert text.count("<tr>") == 1 + shown
    assert f"source {count - 1}" in text
    words = rf"{shown} of {count} sentences; [\d,]+ tokens per second, {shown} sentences at a time"
    assert re.search(words, text)
    without = inspect.translations(model, Task(count))({}, {}, ONE)
    assert [section.title for section in without] == ["Translations"]
