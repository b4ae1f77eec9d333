"""A run from its start, through stops and damage, to its end."""

import dataclasses
import datetime
import errno
import functools
import json
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import Net, assert_identical, disturbed, numbers, quietly, raw, send, tiny

from jaxmodels import data, experiment, metrics, objectives, optimizers, report, sharding, train
from jaxmodels.errors import UserError
from jaxmodels.experiment import folder as run_folder
from jaxmodels.experiment import training
from jaxmodels.experiment.files import write_json
from jaxmodels.models.mlp import MLP

TINY = Path(__file__).parent / "tiny_run.py"
EVERY = "--eval-every", 4, "--save-every", 4, "--log-every", 2


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outcome of a run without disturbance, its state as numpy, and what it printed."""

    @functools.cache
    def done(*arguments):
        folder = tmp_path_factory.mktemp("whole") / "run"
        outcome, printed = quietly(tiny, *EVERY, *arguments, "--out", folder)
        return dataclasses.replace(outcome, state=raw(outcome.state)), printed

    return done


@pytest.fixture
def copied(uninterrupted, tmp_path):
    """The folder of such a run, to be spoilt."""
    shutil.copytree(uninterrupted()[0].folder, tmp_path / "run")
    return tmp_path / "run"


def ended(capsys, make, *arguments):
    """The exit status of a run that does not reach its end, and what it printed on stderr."""
    with pytest.raises(SystemExit) as caught:
        quietly(make, *arguments)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return caught.value.code, errors


def steps_of(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*[0-9]"))


# What a run leaves behind


def test_a_run_leaves_its_numbers_its_state_and_its_page(uninterrupted):
    outcome, printed = uninterrupted()
    assert {path.name for path in outcome.folder.iterdir()} == {
        *("config.json", "cost.json", "metrics.jsonl", "tensorboard", "checkpoints"),
        *("results.json", "report.html", ".lock"),
    }
    assert any((outcome.folder / "tensorboard").iterdir())
    assert steps_of(outcome.folder)[-1] == 12
    for words in "test/error", "published", str(outcome.folder), "report.html", "resume    uv run":
        assert words in printed
    page = (outcome.folder / "report.html").read_text()
    assert "A small experiment" in page
    assert "test/error" in page
    config = json.loads((outcome.folder / "config.json").read_text())
    assert config["hyperparameters"]["batch_size"] == 16
    assert config["options"]["mesh"] == "data=-1"
    assert config["devices"] == ["cpu"] * 8
    assert config["versions"]["jax"] == jax.__version__


def test_results_and_params_are_read_back(uninterrupted):
    outcome, _ = uninterrupted()
    results = experiment.results(outcome.folder)
    assert results.keys() == outcome.metrics.keys()
    for name, value in outcome.metrics.items():
        np.testing.assert_array_equal(results[name], value)
    read = functools.partial(experiment.params, outcome.folder)
    assert_identical(raw(read()), outcome.state.params)
    assert_identical(raw(read("collections")), outcome.state.collections)
    assert_identical(raw(read("opt_state/1/ema")), optimizers.averaged(outcome.state))


def test_params_that_are_read_back_give_the_metrics_of_the_run(uninterrupted):
    """The average's statistics are those that training batches have under it."""
    folder, made = uninterrupted()[0].folder, tiny()
    params = experiment.params(folder, "opt_state/1/ema")
    collections = experiment.params(folder, "collections")
    estimate = train.batch_stats_estimator(made.prepared_objective, made.train, sharding.mesh())
    params, collections = jax.device_put(
        (params, collections), sharding.replicated(sharding.mesh())
    )
    variables = {"params": params, **estimate(params, collections)}
    test = data.load("digits")["test"]
    batch = test.preprocess(test.read(np.arange(len(test))))
    logits = np.asarray(Net(64, 0.5).apply(jax.device_get(variables), batch["image"]))
    right = np.argmax(logits, -1) == np.asarray(batch["label"])
    assert np.mean(right) == experiment.results(folder)["test/accuracy"]


def test_the_best_evaluation_is_saved_whenever_it_is(tmp_path):
    """Also where evaluations and saves never meet."""
    folder = tmp_path / "run"
    often = "--steps", 20, "--eval-every", 3, "--save-every", 10, "--keep", 1
    quietly(tiny, *often, "--rate", 0.5, "--out", folder)
    errors = {line["step"]: line["test/error"] for line in numbers(folder, "test/")}
    best = min(errors, key=lambda step: (errors[step], step))
    assert best % 10 != 0  # at this rate the last is not the best
    assert int(experiment.params(folder, "step", "best")) == best
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {str(best), "20"}
    with pytest.raises(UserError, match="no checkpoint of step 5"):
        experiment.params(folder, which=5)


def test_reading_passes_a_damaged_checkpoint_over_with_a_warning(copied, uninterrupted):
    flip(copied / "checkpoints" / "12")
    with pytest.warns(UserWarning, match=r"step 12: .* checksum differs"):
        found = raw(experiment.params(copied))
    last = uninterrupted()[0].state.params
    assert jax.tree.structure(found) == jax.tree.structure(last)
    assert np.any(found["Dense_0"]["kernel"] != last["Dense_0"]["kernel"])


def test_reading_says_what_is_missing(copied, tmp_path):
    for read in experiment.params, experiment.results:
        with pytest.raises(UserError, match="not the folder of a"):
            read(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no part 'weights'; its parts are step, params"):
        experiment.params(copied, "weights")
    assert not (tmp_path / "nothing").exists()


def test_lines_are_means_over_all_steps_since_the_last(uninterrupted):
    every_step = numbers(uninterrupted("--log-every", 1)[0].folder, "train/")
    assert [line["step"] for line in every_step] == list(range(1, 13))
    for arguments, ends in {
        ("--log-every", 3): [3, 4, 6, 8, 9, 12],  # also at each save, where a restart would begin
        ("--log-every", 100): [4, 8, 12],
    }.items():
        lines = numbers(uninterrupted(*arguments)[0].folder, "train/")
        assert [line["step"] for line in lines] == ends
        for begin, line in zip([0, *ends], lines, strict=False):
            expected = np.mean([one["train/loss"] for one in every_step[begin : line["step"]]])
            # Means of float32 numbers, taken in another order.
            np.testing.assert_allclose(line["train/loss"], expected, rtol=1e-6)


# Stopping and going on


def fail():
    raise RuntimeError("as if the machine failed")


@pytest.mark.parametrize("per_call", [1, 4])
def test_a_crash_leaves_no_trace(per_call, uninterrupted, tmp_path, caplog):
    arguments = "--steps", 24, "--steps-per-call", per_call
    expected, _ = uninterrupted(*arguments)
    with jax.log_compiles():
        with pytest.raises(RuntimeError, match="the machine failed"):
            quietly(disturbed(22, fail), *EVERY, *arguments, "--out", tmp_path / "run")
        assert compilations(caplog) == 1
        outcome, printed = quietly(tiny, *EVERY, *arguments, "--out", tmp_path / "run")
        assert compilations(caplog) == 1
    assert "resumed at step " in printed
    assert_identical(raw(outcome.state), expected.state)
    assert numbers(outcome.folder) == numbers(expected.folder)
    assert steps_of(outcome.folder) == steps_of(expected.folder)


def compilations(caplog):
    """How often a training step was compiled since the last question."""
    found = [m for m in caplog.messages if m.startswith("Compiling jit(training_step)")]
    caplog.clear()
    return len(found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(number, uninterrupted, tmp_path, capsys, request):
    expected, _ = uninterrupted()
    if number == signal.SIGHUP:  # else ignored where nohup started the tests
        request.addfinalizer(
            functools.partial(signal.signal, number, signal.signal(number, signal.SIG_DFL))
        )
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        experiment.run(
            disturbed(8, send(number)), [*map(str, EVERY), "--out", str(tmp_path / "run")]
        )
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    step = steps_of(tmp_path / "run")[-1]
    assert step == 7  # batches are read two ahead
    printed = capsys.readouterr().out
    assert f"stopped and saved at step {step}; resume with\n  uv run" in printed
    assert f"--out {tmp_path / 'run'}" in printed
    outcome, printed = quietly(tiny, *EVERY, "--out", tmp_path / "run")
    assert f"resumed at step {step}" in printed
    assert_identical(raw(outcome.state), expected.state)
    seen = [line["step"] for line in numbers(outcome.folder, "train/")]
    assert seen == sorted(set(seen) | {2, 4, 6, 8, 10, 12, step})
    assert numbers(outcome.folder, "test/") == numbers(expected.folder, "test/")


def test_a_finished_run_is_only_evaluated_again(copied, uninterrupted):
    expected, _ = uninterrupted()
    outcome, _ = quietly(tiny, *EVERY, "--out", copied)
    assert_identical(raw(outcome.state), expected.state)
    assert outcome.metrics.keys() == expected.metrics.keys()
    assert outcome.metrics["test/error"] == expected.metrics["test/error"]
    assert numbers(outcome.folder) == numbers(expected.folder)


def test_a_finished_run_takes_more_steps(copied):
    outcome, printed = quietly(tiny, *EVERY, "--steps", 16, "--out", copied, "--data-dir", "moved")
    assert "resumed at step 12" in printed
    assert int(outcome.state.step) == 16
    assert [line["step"] for line in numbers(copied, "test/")] == [4, 8, 12, 16]


def test_fewer_steps_than_were_taken_are_refused(copied, capsys):
    status, errors = ended(capsys, tiny, "--steps", 8, "--out", copied)
    assert status == 2
    assert "already at step 12, 4 beyond --steps; give --steps 12 or more" in errors


# Damage


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(checkpoint):
    path = largest(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(checkpoint):
    path = largest(checkpoint)
    path.write_bytes(path.read_bytes()[:-100])


def half_delete(checkpoint):
    for path in [p for p in checkpoint.rglob("*") if p.is_file()][::2]:
        path.unlink()


def lose_the_record(checkpoint):
    checkpoint.with_name(f"{checkpoint.name}.json").unlink()


@pytest.mark.parametrize("damage", [flip, truncate, half_delete, lose_the_record])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(damage, copied, uninterrupted):
    expected, _ = uninterrupted()
    damage(copied / "checkpoints" / "12")
    outcome, printed = quietly(tiny, *EVERY, "--out", copied)
    assert "skipped a damaged checkpoint: step 12: " in printed
    assert "resumed at step 8" in printed
    assert_identical(raw(outcome.state), expected.state)
    assert numbers(outcome.folder) == numbers(expected.folder)
    # What has no record was never complete, and goes once that step is saved again.
    assert (copied / "checkpoints" / "12.damaged").exists() == (damage is not lose_the_record)


def test_without_a_good_checkpoint_nothing_is_deleted(copied, capsys):
    for step in steps_of(copied):
        flip(copied / "checkpoints" / str(step))
    files = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file()}
    status, errors = ended(capsys, tiny, *EVERY, "--out", copied)
    assert status == 2
    assert f"every checkpoint in {copied}/checkpoints is damaged:\n  step 12: " in errors
    assert "Nothing was deleted" in errors
    left = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file()}
    changed = {p.name for p in files | left if files.get(p) != left.get(p)}
    assert changed <= {"config.json"}


def test_a_full_disk_ends_the_run_and_the_last_good_checkpoint_stays(
    uninterrupted, tmp_path, capsys
):
    expected, _ = uninterrupted()
    record = tmp_path / "run" / "checkpoints" / "4.json"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        while not record.exists():  # step 4 is written in the background
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        status, errors = ended(capsys, disturbed(8, fill), *EVERY, "--out", tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    assert "the checkpoint of step 8 could not be written" in errors
    assert "the last good one is of step 4" in errors
    outcome, printed = quietly(tiny, *EVERY, "--out", tmp_path / "run")
    assert "resumed at step 4" in printed
    assert_identical(raw(outcome.state), expected.state)


def test_a_full_disk_is_said_whatever_could_not_be_written(tmp_path, capsys, monkeypatch):
    def write(log, step, scalars):
        raise OSError(errno.ENOSPC, "No space left on device", str(log.path))

    monkeypatch.setattr(report.Log, "write", write)
    status, errors = ended(capsys, tiny, *EVERY, "--out", tmp_path / "run")
    assert status == 1
    assert errors.endswith(f"No space left on device: '{tmp_path}/run/metrics.jsonl'\n")


# Folders of others


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", 0.1], "  rate: 0.01 there, 0.1 now"),
        (["--seed", 1], "  seed: 0 there, 1 now"),
        (["--precision", "bf16"], "  precision: 'f32' there, 'bf16' now"),
        (["--width", 8, "--batch-size", 8], "  batch_size: 16 there, 8 now\n  width: 64 there, 8"),
    ],
)
def test_a_folder_of_other_hyperparameters_is_refused(arguments, words, copied, capsys):
    before = (copied / "config.json").read_text()
    status, errors = ended(capsys, tiny, *arguments, "--out", copied)
    assert status == 2
    assert f"--out {copied} belongs to another run:\n" in errors
    assert words in errors
    assert (copied / "config.json").read_text() == before


def changed(make, **replacements):
    """The experiment after its code was changed: same name, same hyperparameters."""

    @functools.wraps(make)
    def made(**hyperparameters):
        return make(**{**hyperparameters, **replacements})

    return made


def test_a_folder_of_another_experiment_is_refused(copied, capsys):
    def other(batch_size: int = 16, rate: float = 1e-2) -> experiment.Experiment:
        return tiny(batch_size=batch_size, rate=rate)

    status, errors = ended(capsys, other, "--out", copied)
    assert status == 2
    assert "  experiment: 'tiny' there, 'other' now" in errors
    assert "  width: 64 there, 'absent' now" in errors


def test_other_shapes_of_the_same_hyperparameters_are_shown_leaf_by_leaf(copied, capsys):
    status, errors = ended(capsys, changed(tiny, width=32), *EVERY, "--out", copied)
    assert status == 2
    assert f"{copied}/checkpoints/12 is of another state:\n" in errors
    assert "  params/Dense_0/kernel: expected float32[64, 32], found float32[64, 64]\n" in errors
    assert "  opt_state/1/ema/Dense_1/kernel: expected float32[32, 10]" in errors
    assert steps_of(copied)[-1] == 12


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"hyperparameters": 3, "experiment": 1}'])
def test_a_config_that_no_run_wrote_is_refused(content, tmp_path, capsys):
    (tmp_path / "config.json").write_text(content)
    status, errors = ended(capsys, tiny, "--out", tmp_path)
    assert status == 2
    assert f"{tmp_path}/config.json is not a file that a run has written" in errors


def test_a_warning_names_packages_whose_version_changed(copied, capsys):
    config = json.loads((copied / "config.json").read_text())
    now, config["versions"]["jax"] = config["versions"]["jax"], "0.9.9"
    (copied / "config.json").write_text(json.dumps(config))
    for steps in 13, 14:  # the second time, too
        outcome, _ = quietly(tiny, *EVERY, "--steps", steps, "--out", copied)
        errors = capsys.readouterr().err
        assert errors.startswith(f"the run was started with jax 0.9.9, now {now}: it resumes")
    assert json.loads((copied / "config.json").read_text())["started_with"] == {"jax": "0.9.9"}
    assert "0.9.9" in (outcome.folder / "report.html").read_text()


def test_a_run_that_has_saved_nothing_may_be_changed(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        quietly(disturbed(2, fail), "--batch-size", 8, "--save-every", 9, "--out", tmp_path / "run")
    outcome, _ = quietly(tiny, "--steps", 2, "--out", tmp_path / "run")
    assert int(outcome.state.step) == 2


def test_a_kill_before_the_first_file_is_whole_is_no_obstacle(tmp_path):
    (tmp_path / "config.tmp").write_text("{")
    quietly(tiny, "--steps", 1, "--out", tmp_path)
    assert not (tmp_path / "config.tmp").exists()


# Numbers that are not finite


def test_a_loss_of_nan_stops_the_run_and_says_from_where_to_go_on(tmp_path, capsys):
    folder = tmp_path / "run"
    bad = "--bad-step", 7
    status, errors = ended(capsys, tiny, *bad, *EVERY, "--out", folder)
    assert status == 1
    assert "the loss of step 7 is nan; the last finite loss: step 6 with " in errors
    assert f"last good checkpoint: {folder}/checkpoints/4\n" in errors
    assert "--on-nan skip" in errors
    assert steps_of(folder) == [4]
    assert [line["step"] for line in numbers(folder)] == [2, 4, 4, 6]
    status, again = ended(capsys, tiny, *bad, *EVERY, "--out", folder)
    assert (status, again) == (1, errors)
    outcome, printed = quietly(tiny, *bad, *EVERY, "--out", folder, "--on-nan", "skip")
    assert "resumed at step 4" in printed
    assert int(outcome.state.skipped) == 1


@pytest.mark.parametrize("per_call", [1, 4])
def test_skipped_updates_poison_nothing_and_are_counted(per_call, tmp_path):
    arguments = "--bad-step", 7, "--on-nan", "skip", "--steps-per-call", per_call
    outcome, printed = quietly(tiny, *arguments, *EVERY, "--out", tmp_path / "run")
    assert int(outcome.state.skipped) == 1
    assert "1 updates were skipped" in printed
    assert experiment.results(outcome.folder)["train/skipped"] == 1
    leaves = jax.tree.leaves(raw(outcome.state))
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert all(line["train/loss"] is not None for line in numbers(outcome.folder, "train/"))
    assert steps_of(outcome.folder)[-1] == 12


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, capsys):
    def explode(updates, count, params=None):
        del params
        factor = jnp.where(count == 7, jnp.inf, 1.0)
        return jax.tree.map(lambda u: u * factor, updates), count + 1

    @functools.wraps(tiny)
    def exploding(**hyperparameters):
        made = tiny(**hyperparameters)
        link = optax.GradientTransformation(lambda params: jnp.int32(0), explode)
        return dataclasses.replace(made, optimizer=optax.chain(made.optimizer, link))

    folder = tmp_path / "run"
    status, errors = ended(capsys, exploding, *EVERY, "--out", folder)
    assert status == 1
    assert "the loss of step 8 is finite, but params or state after it are not" in errors
    assert f"last good checkpoint: {folder}/checkpoints/4\n" in errors
    assert steps_of(folder) == [4]


# Options


def perceptron(steps: int = 40, batch_size: int = 16) -> experiment.Experiment:
    """Digits, with neither dropout nor BatchNorm."""
    digits = data.load("digits")
    model = MLP((32, 10))
    return experiment.Experiment(
        objective=objectives.classification(model),
        optimizer=optax.sgd(0.2),
        train=digits["train"].batches(batch_size),
        evaluate={"test": metrics.classification(model, digits["test"])},
        steps=steps,
    )


def losses(folder, *arguments):
    outcome, _ = quietly(perceptron, "--log-every", 1, *arguments, "--out", folder)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(outcome.state.params)} == {"float32"}
    return np.array([line["train/loss"] for line in numbers(folder, "train/")])


def test_precision_and_accumulation(tmp_path, monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    exact = losses(tmp_path / "exact")
    assert exact[-1] < 0.5 * exact[0]
    parts = losses(tmp_path / "parts", "--accumulate", 2)
    # Sums in another order, 6e-8 apart, and forty steps of plain SGD.
    np.testing.assert_allclose(parts, exact, rtol=1e-4)
    half = losses(tmp_path / "half", "--precision", "bf16")
    assert np.any(half != exact)
    # bfloat16 has 8 bits, so that a step's loss differs by half a percent, and the paths part.
    np.testing.assert_allclose(half, exact, rtol=0.05)


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    out = tmp_path / "run"

    def start_another():
        with pytest.raises(SystemExit) as exit_:
            quietly(tiny, "--out", out)
        assert exit_.value.code == 2

    quietly(disturbed(5, start_another), "--out", out)
    assert "is in use by another process" in capsys.readouterr().err
    assert len(numbers(out, "train/")) == len({line["step"] for line in numbers(out, "train/")})
    quietly(tiny, "--out", out)  # and once it has ended, it may be opened again


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = SimpleNamespace(now=lambda: datetime.datetime(2026, 1, 2))
    monkeypatch.setattr(run_folder, "datetime", SimpleNamespace(datetime=now))
    folders = [quietly(tiny, "--evaluate")[0].folder for _ in range(3)]
    assert [folder.name for folder in folders] == [
        "20260102-000000",
        "20260102-000000-2",
        "20260102-000000-3",
    ]


def test_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        outcome, _ = quietly(disturbed(8, send(signal.SIGHUP)), "--out", tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert int(outcome.state.step) == 12


@pytest.mark.parametrize("name", ["config.json", "cost.json"])
def test_files_that_a_lost_machine_left_empty(name, copied, uninterrupted, capfd):
    expected, _ = uninterrupted()
    (copied / name).write_text("")
    outcome, _ = quietly(tiny, *EVERY, "--out", copied)
    assert_identical(raw(outcome.state), expected.state)
    assert f"{copied / name} is " in capfd.readouterr().err
    assert json.loads((copied / name).read_text())


def test_a_run_killed_before_its_config_was_written(tmp_path):
    @functools.wraps(tiny)
    def made(**hyperparameters):
        return dataclasses.replace(tiny(**hyperparameters), files={"words.txt": "a b"})

    (tmp_path / "words.txt").write_text("a")
    (tmp_path / "config.tmp").touch()
    outcome, _ = quietly(made, "--evaluate", "--out", tmp_path)
    assert (outcome.folder / "words.txt").read_text() == "a b"


def test_a_hyperparameter_with_the_name_of_an_option(capsys):
    def seeded(seed: int = 0):
        return tiny()

    with pytest.raises(SystemExit) as caught:
        quietly(seeded)
    assert caught.value.code == 2
    assert (
        "the hyperparameter 'seed' of seeded has the name of an option" in capsys.readouterr().err
    )


def test_a_home_folder_after_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    outcome, _ = quietly(tiny, "--evaluate", "--out=~/run")
    assert outcome.folder == tmp_path / "run"


def test_nobody_reads_the_output_any_more(tmp_path):
    """As `python run.py | head -1`."""
    command = [sys.executable, TINY, "--out", tmp_path / "run", "--log-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_results_are_json_even_where_they_are_not_finite(tmp_path):
    values = {"nan": np.nan, "inf": np.float32(np.inf), "table": np.array([[1.0, np.nan]]), "n": 3}
    write_json(tmp_path / "results.json", values)
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["n"] == 3
    found = experiment.results(tmp_path)
    assert np.isnan(found["nan"])
    assert np.isnan(found["inf"])
    np.testing.assert_array_equal(found["table"], values["table"])


def test_damaged_files_of_a_run_are_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("results.json", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"results\.json is not a file that a run has written"):
        experiment.results(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is not a file that a run has written"):
        experiment.params(tmp_path, which="best")


def test_a_finished_run_of_another_command_is_not_reproduced(tmp_path):
    reproduce = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "reproduce.py"))
    write_json(tmp_path / "config.json", {"command": f"mlp.py --steps 5 --out {tmp_path}"})
    reproduce["check_same_command"](tmp_path, ["--steps", "5", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds a run of another command"):
        reproduce["check_same_command"](tmp_path, ["--steps", "6", "--out", str(tmp_path)])


def test_what_may_not_be_read_is_said_without_a_traceback(copied, monkeypatch, capsys):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied", str(self.lock_file))

    monkeypatch.setattr("filelock.BaseFileLock.acquire", refuse)
    with pytest.raises(SystemExit) as caught:
        quietly(tiny, *EVERY, "--out", copied)
    assert caught.value.code == 2
    assert f"Permission denied: '{copied / '.lock'}'" in capsys.readouterr().err


def test_an_evaluation_that_is_stopped_has_saved_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "evaluator", lambda *_: evaluate)

    def evaluate(params, collections):
        send(signal.SIGTERM)()
        return {}

    with pytest.raises(SystemExit) as caught:
        experiment.run(tiny, ["--evaluate", "--out", str(tmp_path / "run")])
    assert caught.value.code == 143
    assert "stopped before everything was evaluated; nothing was saved" in capsys.readouterr().out
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_the_page_of_a_script_without_a_docstring_has_a_title(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[tiny.__module__], "__doc__", None)
    outcome, _ = quietly(tiny, "--evaluate", "--out", tmp_path / "run")
    assert "<title>tiny" in (outcome.folder / "report.html").read_text()
