"""Starting from another run, evaluating without training, training a part of the params."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import quietly, tiny

from jaxmodels import metrics, optimizers
from jaxmodels.errors import UserError
from jaxmodels.experiment import Published, from_run, params, results
from jaxmodels.experiment.experiment import trained_params


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    outcome, _ = quietly(tiny, "--out", folder)
    return folder, outcome


def named(make, **changes):
    """The experiment with other fields, under the same name and arguments."""
    import functools

    @functools.wraps(make)
    def changed(**hyperparameters):
        return dataclasses.replace(make(**hyperparameters), **changes)

    return changed


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_start_is_evaluated_as_its_run_was(source, tmp_path):
    folder, outcome = source
    found, printed = quietly(tiny, "--start", folder, "--evaluate", "--out", tmp_path / "run")
    assert int(found.state.step) == 0
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert results(tmp_path / "run") == pytest.approx(results(folder), rel=1e-5)
    assert (tmp_path / "run" / "report.html").exists()
    assert "test/error" in printed
    equal(found.state.params, optimizers.averaged(outcome.state))
    equal(optimizers.averaged(found.state), found.state.params)  # the average begins there too
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["start"]["folder"] == str(folder)
    assert config["start"]["step"] == 12
    assert config["start"]["experiment"] == "tiny"


def test_averaged_params_start_with_their_own_batch_statistics(source, tmp_path):
    """The checkpoint's statistics are of the params that were trained, not of their average."""
    folder, _ = source
    plain = named(tiny, start=from_run(folder), eval_params=trained_params)
    quietly(plain, "--evaluate", "--out", tmp_path / "run")
    assert results(tmp_path / "run") == pytest.approx(results(folder), rel=1e-5)


def test_it_is_said_that_initial_params_are_evaluated(tmp_path):
    _, printed = quietly(tiny, "--evaluate", "--out", tmp_path / "run")
    assert "evaluated are the initial params" in printed


def test_a_run_is_evaluated_again_where_it_is(source):
    folder, _ = source
    before = results(folder)
    found, _ = quietly(tiny, "--evaluate", "--out", folder)
    assert int(found.state.step) == 12
    assert results(folder) == before


def test_a_run_that_goes_on_does_not_start_again(source, tmp_path):
    folder, _ = source
    arguments = "--start", folder, "--out", tmp_path / "run"
    quietly(tiny, *arguments, "--steps", 4)
    again, printed = quietly(tiny, *arguments, "--steps", 6)
    assert "resumed at step 4" in printed
    straight, _ = quietly(tiny, "--start", folder, "--out", tmp_path / "straight", "--steps", 6)
    equal(again.state.params, straight.state.params)


def test_an_evaluation_keeps_the_record_of_the_training(tmp_path):
    folder = tmp_path / "run"
    quietly(tiny, "--steps", 4, "--rate", 0.02, "--out", folder)
    before = (folder / "config.json").read_text()
    _, printed = quietly(tiny, "--rate", 0.02, "--evaluate", "--out", folder)
    assert (folder / "config.json").read_text() == before
    assert "evaluated at step 4 of this run" in printed
    assert "steps=4 instead of 12" in printed
    assert "--evaluate" not in printed.partition("resume  ")[2]


@pytest.mark.parametrize("mesh", ["fsdp=8", "data=2,tensor=4"])
def test_a_start_is_placed_on_any_mesh(source, tmp_path, mesh):
    folder, outcome = source
    arguments = "--start", folder, "--evaluate", "--mesh", mesh, "--out", tmp_path / "run"
    found, _ = quietly(tiny, *arguments)
    equal(jax.device_get(found.state.params), jax.device_get(optimizers.averaged(outcome.state)))


def test_only_what_is_trainable_is_trained(source, tmp_path):
    folder, _ = source
    part = named(tiny, trainable="^Dense_1/", start=from_run(folder))
    found, printed = quietly(part, "--out", tmp_path / "run", "--steps", 3)
    assert "650 of them trained" in printed
    begun, _ = quietly(tiny, "--start", folder, "--evaluate", "--out", tmp_path / "begun")
    for name in ("Conv_0", "BatchNorm_0", "Dense_0"):
        equal(found.state.params[name], begun.state.params[name])
    kernels = (run.state.params["Dense_1"]["kernel"] for run in (found, begun))
    assert not np.array_equal(*kernels)
    held = jax.tree.leaves(found.state.opt_state)
    # Adam's two moments and the average, of a kernel and a bias; a count.
    assert len(held) == 3 * 2 + 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["trainable"] == "^Dense_1/"


def test_a_head_may_be_new(source, tmp_path):
    folder, outcome = source
    new = named(tiny, start=from_run(folder, new="^params/Dense_1/"))
    found, _ = quietly(new, "--evaluate", "--out", tmp_path / "run")
    average = optimizers.averaged(outcome.state)
    equal(found.state.params["Conv_0"], average["Conv_0"])
    plain, _ = quietly(tiny, "--evaluate", "--out", tmp_path / "plain")
    equal(found.state.params["Dense_1"], plain.state.params["Dense_1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "{tmp}/nothing"], "no run is there"),
        (
            ["--start", "{folder}", "--width", "32"],
            "  params/Dense_1/kernel: expected float32[32, 10], found float32[64, 10]",
        ),
        (["--evaluate", "--plan", "cpu:8"], "cannot be given together"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(arguments, message, source, tmp_path, capsys):
    filled = [a.format(tmp=tmp_path, folder=source[0]) for a in arguments]
    with pytest.raises(SystemExit) as exit_:
        quietly(tiny, *filled, "--out", tmp_path / "run")
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_another_spelling_of_the_same_start(source, tmp_path, monkeypatch):
    folder, _ = source
    arguments = "--save-every", 2, "--out", tmp_path / "run"
    quietly(tiny, "--start", folder, *arguments, "--steps", 4)
    monkeypatch.chdir(folder.parent)
    for spelling in (f"{folder.name}/", f"./{folder.name}"):
        quietly(tiny, "--start", spelling, *arguments, "--steps", 6)


def test_a_run_without_a_checkpoint_is_no_start(tmp_path, capsys):
    quietly(tiny, "--evaluate", "--out", tmp_path / "evaluated")
    with pytest.raises(SystemExit):
        quietly(tiny, "--start", tmp_path / "evaluated", "--out", tmp_path / "run")
    assert "holds no checkpoint: the run saved no state" in capsys.readouterr().err
    with pytest.raises(UserError, match="no state was saved"):
        params(tmp_path / "evaluated")


def test_a_run_of_version_0_1_is_refused(source, tmp_path, capsys):
    folder = tmp_path / "old"
    folder.mkdir()
    config = json.loads((source[0] / "config.json").read_text())
    del config["jaxmodels"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "checkpoints").mkdir()
    for arguments in (["--out", folder], ["--start", folder, "--out", tmp_path / "new"]):
        with pytest.raises(SystemExit):
            quietly(tiny, *arguments)
        assert "holds a run of jaxmodels 0.1" in capsys.readouterr().err


def test_a_start_may_not_change_the_state_s_form(source, tmp_path, capsys):
    class Wrong:
        provenance = {"from": "nowhere"}  # noqa: RUF012

        def __call__(self, state):
            return dataclasses.replace(state, params={"w": state.step})

    with pytest.raises(SystemExit):
        quietly(named(tiny, start=Wrong()), "--out", tmp_path / "run")
    assert "changed the structure of the state" in capsys.readouterr().err


class TestMetrics:
    """What is declared of metrics decides about the best checkpoint and verdicts."""

    def test_a_best_metric_that_nobody_measures_is_refused(self):
        with pytest.raises(UserError, match="'test/acuracy' cannot rank checkpoints"):
            dataclasses.replace(tiny(), best="test/acuracy")

    def test_a_best_metric_without_direction_is_refused(self):
        test = tiny().evaluate["test"]
        plain = dataclasses.replace(test, metrics={"error": metrics.Metric("%")})
        with pytest.raises(UserError, match="cannot rank checkpoints"):
            dataclasses.replace(tiny(), evaluate={"test": plain}, best="test/error")

    def test_a_published_metric_of_no_evaluation_is_refused(self):
        with pytest.raises(UserError, match="'tset/error' belongs to no evaluation"):
            dataclasses.replace(tiny(), published=Published({"tset/error": 0.1}, "digits"))

    @pytest.mark.parametrize(("name", "higher"), [("psnr", True), ("fid", False)])
    def test_best_follows_the_metric_s_direction(self, name, higher, tmp_path):
        from jaxmodels.experiment import Options
        from jaxmodels.experiment.training import open_checkpoints

        test = tiny().evaluate["test"]
        kind = {name: metrics.Metric("dB", higher_is_better=higher)}
        experiment = dataclasses.replace(
            tiny(), evaluate={"test": dataclasses.replace(test, metrics=kind)}, best=f"test/{name}"
        )
        with open_checkpoints(experiment, Options(), tmp_path) as checkpoints:
            for step, value in enumerate([2.0, 3.0, 1.0, 2.0, 2.0], 1):
                checkpoints.save(step, {"x": np.ones(2)}, {f"test/{name}": value})
            checkpoints.wait()
            assert checkpoints.steps()[0] == (2 if higher else 3)


def test_on_other_data_there_is_no_verdict(tmp_path, capsys):
    other = named(tiny, published=Published({"test/error": 0.99}, "mnist"))
    _, printed = quietly(other, "--out", tmp_path / "run", "--steps", 2, "--rate", 0.02)
    assert "on digits" in printed
    assert "reached" not in printed
    assert "The published values are for mnist; this run read digits: no verdict." in printed
    assert "This run's settings differ: steps=2 instead of 12, rate=0.02 instead of 0.01" in printed
    page = (tmp_path / "run" / "report.html").read_text()
    assert "measured on digits" in page
    assert "better than" not in page


def test_a_report_that_fails_costs_nothing(tmp_path):
    def fails(variables, metrics, mesh):
        raise RuntimeError("no picture")

    outcome, printed = quietly(named(tiny, report=fails), "--out", tmp_path / "run", "--steps", 2)
    assert results(tmp_path / "run").keys() == outcome.metrics.keys()
    assert "RuntimeError: no picture" in (tmp_path / "run" / "report.html").read_text()
    assert "test/error" in printed
    assert tiny().eval_params is not trained_params


def test_a_resumed_run_keeps_what_it_started_from(source, tmp_path, capsys):
    import shutil

    folder, _ = source
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    arguments = "--start", moved, "--out", tmp_path / "run"
    quietly(tiny, *arguments, "--steps", 2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["start"]
    shutil.rmtree(moved)
    quietly(tiny, *arguments, "--steps", 3)
    quietly(tiny, "--out", tmp_path / "run", "--steps", 4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start"] == config
    with pytest.raises(SystemExit):
        quietly(tiny, "--start", folder, "--out", tmp_path / "run", "--steps", 5)
    assert f"this run has started from {moved}" in capsys.readouterr().err


@pytest.mark.parametrize("report", [lambda *_: None, lambda *_: ["text"]])
def test_a_report_of_another_form_costs_nothing(report, tmp_path):
    quietly(named(tiny, report=report), "--out", tmp_path / "run", "--steps", 2)
    assert "This section failed: TypeError" in (tmp_path / "run" / "report.html").read_text()
