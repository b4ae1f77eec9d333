"""One contract for all experiments: built, two steps, resumed exactly, and short."""

import dataclasses
import importlib.util
import inspect
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmodels.experiment import Options, train
from jaxmodels.experiment.cli import use_compilation_cache

FILES = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))

SMALL = {
    "autoencoder_mnist": {"dataset": "digits", "hidden": 16},
    "cnn_digits": {},
    "cnn_mnist": {"dataset": "digits"},
    "copy_memory": {"blanks": 5},
    "gpt_shakespeare": {
        "dataset": "stdlib",
        "context": 64,
        "width": 16,
        "depth": 1,
        "num_heads": 2,
    },
    "gru_adding_problem": {"length": 10},
    "gru_multi30k": {"dataset": "numbers", "embedding": 8, "features": 16, "beam_size": 1},
    "iwae_mnist": {"dataset": "digits", "samples": 5, "eval_samples": 50},
    "lenet_mnist": {"dataset": "digits"},
    "lstm_addition": {"digits": 1, "width": 16},
    "lstm_ptb": {"dataset": "stdlib", "length": 35, "min_count": 100},
    "mlp_mnist": {"dataset": "digits", "widths": (16, 16)},
    "resnet_cifar10": {"dataset": "digits", "depth": 8},
    "transfer_mnist": {"dataset": "digits"},
    "transformer_multi30k": {"dataset": "numbers", "width": 32, "depth": 1, "beam_size": 1},
    "vae_digits": {"hidden": 16},
    "vae_mnist": {"dataset": "digits", "hidden": 16},
}
"""What makes each experiment small and free of downloads."""


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, path.stem)


def test_every_experiment_is_in_the_table():
    assert {path.stem for path in FILES} == SMALL.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_is_a_short_claim(path):
    make = load(path)
    assert len(path.read_text().splitlines()) <= 75
    claim = make(**SMALL[path.stem], steps=20, batch_size=8)
    assert claim.published
    assert claim.best_metric.partition("/")[0] in claim.evaluate
    documented = [name for name in inspect.signature(make).parameters if f"{name}:" in make.__doc__]
    assert documented == list(inspect.signature(make).parameters)


def test_an_autoencoder_is_compared_with_the_result_for_its_samples_and_layers():
    make = load(FILES[0].with_name("iwae_mnist.py"))
    small = {"dataset": "digits", "eval_samples": 50, "steps": 20, "batch_size": 8}
    assert make(**small, samples=1).published.metrics == {"test/nll": 86.76}
    assert make(**small, latents=(100, 50)).published.metrics == {"test/nll": 82.90}
    assert not make(**small, samples=2).published


@pytest.fixture(scope="module")
def compiled_once():
    """Programs are kept: the second and the third run of an experiment compile nothing."""
    use_compilation_cache("auto")
    yield
    use_compilation_cache("off")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("compiled_once")
def test_two_steps_resumed_equal_two_steps_in_a_row(path, tmp_path):
    claim = load(path)(**SMALL[path.stem], steps=20, batch_size=8)

    def run(folder, steps, claim):
        folder.mkdir(exist_ok=True)
        described = {"experiment": path.stem, "description": path.stem, "metrics": {}}
        (folder / "config.json").write_text(json.dumps(described))
        return train(dataclasses.replace(claim, steps=steps), Options(), folder)

    # Only what is looked at is evaluated.
    bare = {"evaluate": {}, "published": None, "best": None, "report": lambda *_: ()}
    unevaluated = dataclasses.replace(claim, **bare)
    whole = run(tmp_path / "whole", 2, unevaluated)
    run(tmp_path / "parts", 1, unevaluated)
    parts = run(tmp_path / "parts", 2, claim)
    jax.tree.map(np.testing.assert_array_equal, whole.state.params, parts.state.params)
    jax.tree.map(np.testing.assert_array_equal, whole.state.collections, parts.state.collections)
    assert (tmp_path / "parts" / "report.html").stat().st_size > 5_000
    assert set(parts.metrics) >= set(claim.published.metrics)
