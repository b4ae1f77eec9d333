"""Mistakes of the user's: one readable message each, status 2, no traceback."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Net, quietly, tiny

from jaxmodels import data, metrics, objectives, sharding
from jaxmodels.data import text
from jaxmodels.errors import UserError
from jaxmodels.experiment import Experiment, run

SCRIPT = Path(__file__).parent.parent / "experiments" / "cnn_digits.py"


TWO = "--processes 2 --process-id"


def refused(capsys, make, *arguments):
    """What is printed on stderr of a mistake, and nothing else, as one text without line breaks."""
    with pytest.raises(SystemExit) as caught:
        run(make, [str(argument) for argument in arguments])
    out, errors = capsys.readouterr()
    assert caught.value.code == 2
    assert "Traceback" not in errors
    assert "JAX" not in errors  # whose notes are on tracebacks
    assert out == ""
    return " ".join(errors.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--stepps 3", "Unrecognized options: --stepps"),
        ("--steps many", "many"),
        ("--steps 0", "--steps must be positive; got 0"),
        ("--steps -5", "--steps must be positive; got -5"),
        ("--batch-size 0", "The batch size must be at least 1; it is 0."),
        ("--batch-size 12", "a batch of 12 cannot be split over 8 devices"),
        ("--accumulate 3", "a batch of 16 cannot be split into 3 equal parts"),
        ("--mesh rows=8", "unknown axis 'rows'; the axes are data, fsdp, tensor"),
        ("--mesh data=3", "the product of the sizes is 3, but there are 8 devices"),
        ("--mesh data=-1,fsdp=-1", "only one axis can be -1"),
        ("--mesh data", "the size of 'data' is ''; expected a positive number"),
        ("--precision f64", "f64"),
        ("--save-every 0", "--save-every must be positive; got 0"),
        ("--keep -1", "--keep must be positive; got -1"),
        ("--seed -1", "--seed must be between 0 and 2**32 - 1; got -1"),
        ("--processes 2", "give --coordinator, --processes and --process-id together"),
        (f"--coordinator host {TWO} 0", "--coordinator is the HOST:PORT of process 0"),
        (f"--coordinator :1234 {TWO} 0", "such as host0:1234; got :1234"),
        (f"--coordinator host:http {TWO} 0", "such as host0:1234; got host:http"),
        (f"--coordinator host:1 {TWO} 2", "--process-id must be in 0..1; got 2"),
    ],
)
def test_options(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, tiny, *arguments.split())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("steps_per_call", [5, 24])
def test_steps_that_calls_do_not_divide(steps_per_call, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        quietly(tiny, "--steps-per-call", steps_per_call, "--out", tmp_path / "run")
    assert caught.value.code == 2
    assert f"12 steps cannot be divided into calls of {steps_per_call}" in capsys.readouterr().err


def test_out_that_is_a_file(capsys, tmp_path):
    (tmp_path / "file").touch()
    for out in tmp_path / "file", tmp_path / "file" / "below":
        words = refused(capsys, tiny, "--out", out)
        assert f"--out {out} " in words
        assert "file" in words or "Not a directory" in words


def test_out_that_cannot_be_made(capsys):
    # Not even root makes folders there.
    assert "--out /proc/run cannot be created: " in refused(capsys, tiny, "--out", "/proc/run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_that_is_not_writable(capsys, tmp_path):
    tmp_path.chmod(0o500)
    assert f"--out {tmp_path} is not writable" in refused(capsys, tiny, "--out", tmp_path)


def test_checkpoints_that_are_not_writable(capsys, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path).name != "checkpoints")
    words = refused(capsys, tiny, "--out", tmp_path)
    monkeypatch.setattr(os, "access", access)
    assert f"--out {tmp_path / 'checkpoints'} is not writable" in words


def test_out_with_other_things_in_it(capsys, tmp_path):
    (tmp_path / "thesis.tex").touch()
    assert "is not empty and holds no config.json" in refused(capsys, tiny, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# Data


def arrays(labels, shape=(8, 8, 1)):
    return {"image": np.zeros((len(labels), *shape), np.uint8), "label": np.array(labels, np.int32)}


GOOD = arrays(np.arange(16) % 10)


class Unread:
    """Items that are checked only when they are read, as files are."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        label = 10 if index == 13 else index % 10
        return {"image": np.zeros((8, 8, 1), np.uint8), "label": np.int32(label)}


def on(train, test, num_classes=10):
    """The experiment on other data."""

    def made(steps: int = 12) -> Experiment:
        model = Net(8, 0.0)
        splits = [data.split(source, "mine", num_classes) for source in (train, test)]
        return dataclasses.replace(
            tiny(steps=steps),
            objective=objectives.classification(model),
            train=splits[0].batches(8),
            evaluate={"test": metrics.classification(model, splits[1])},
        )

    return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (on(arrays([1, 2, 10]), GOOD), "Example 2 of mine has the label 10; with 10 classes it"),
        (on(arrays([1, -1, 2]), GOOD), "Example 1 of mine has the label -1"),
        (on(arrays([]), GOOD), "mine has no examples"),
        (on(GOOD, arrays([])), "mine has no examples"),
        (on(GOOD, arrays([1], (9, 8, 1))), "mine as {'image': ((9, 8, 1), 'float32')}, but the"),
        (on(GOOD, arrays([1], (8, 8, 3))), "give both splits the same image_shape"),
    ],
)
def test_data_that_do_not_fit(make, words, capsys, tmp_path):
    assert words in refused(capsys, make, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_label_out_of_range_that_is_found_while_training(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        quietly(on(Unread(), GOOD), "--out", tmp_path / "run")
    assert caught.value.code == 2
    assert "Example 13 of mine has the label 10" in capsys.readouterr().err


def test_more_classes_than_the_model_has(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        quietly(on(GOOD, GOOD, num_classes=11), "--out", tmp_path / "run")
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "expected (B, 11)" in errors
    assert errors.endswith("of the dataset.\n")


class Picky(Net):
    """A model that takes no image."""

    def __call__(self, x, train=False):
        raise UserError(f"expected text; got {x.shape}")


def test_a_model_that_refuses_its_input(capsys, tmp_path):
    def made(steps: int = 12) -> Experiment:
        objective = objectives.classification(Picky(8, 0.0))
        return dataclasses.replace(tiny(steps=steps), objective=objective)

    words = refused(capsys, made, "--out", tmp_path / "run")
    assert words == f"{Path(sys.argv[0]).name}: expected text; got (16, 8, 8, 1)"
    assert not (tmp_path / "run").exists()


# The script as it is started


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--dataset no_such_thing", "no_such_thing"),
        ("--dataset mnist --data-dir /nowhere", "--dataset digits"),
    ],
)
def test_a_data_set_that_is_not_there(arguments, words, tmp_path):
    command = [sys.executable, str(SCRIPT), *arguments.split()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.startswith("cnn_digits.py: ")
    assert "Traceback" not in ended.stderr
    assert not any(tmp_path.iterdir())


def keeping(vocabulary):
    """The experiment with a vocabulary that its run keeps."""

    def made(steps: int = 2) -> Experiment:
        return dataclasses.replace(tiny(steps=steps), files={"vocabulary.json": vocabulary})

    return made


@pytest.mark.parametrize(
    ("there", "now", "difference"),
    [
        (
            text.word_vocabulary("a b", special=()).to_json(),
            text.word_vocabulary("a c", special=()).to_json(),
            "token 1 is 'b' there and 'c' here",
        ),
        ("a text", "a test", "at character 4 'xt' there, 'st' now"),
    ],
)
def test_a_vocabulary_that_is_not_the_runs(there, now, difference, capsys, tmp_path):
    quietly(keeping(there), "--out", tmp_path / "run")
    words = refused(capsys, keeping(now), "--out", tmp_path / "run", "--steps", 4)
    assert (
        f"was written when the run started, but the data now give another one: {difference}"
        in words
    )
    assert (tmp_path / "run" / "vocabulary.json").read_text() == there


def lengths(n):
    """Batches of two lengths."""
    return {"tokens": np.zeros((8, 4 + n % 2), np.int32)}


def test_batches_of_several_lengths_in_one_call():
    class Batches:
        def iterate(self, start, stop, rows=None):
            return map(lengths, range(start, stop))

        batch_size = 8

    mesh = sharding.mesh()
    with pytest.raises(UserError, match=r"several lengths .* --steps-per-call 1"):
        list(sharding.prefetch_to_devices(Batches(), mesh, 0, 4, 2))
