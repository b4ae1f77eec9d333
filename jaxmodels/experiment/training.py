"""A training run: start or resume, train, evaluate, save checkpoints, write the page."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxmodels import report, tree
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, Mirror, folder_path, open_mirror
from jaxmodels.experiment.cost import compute_costs
from jaxmodels.experiment.experiment import Experiment, trained_params
from jaxmodels.experiment.files import RESULTS, write_json
from jaxmodels.experiment.folder import resume_command
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.page import print_summary, write_page
from jaxmodels.experiment.recorder import Recorder
from jaxmodels.experiment.setup import Setup, set_up
from jaxmodels.experiment.signals import StopRequest, abort_with_peers, catch_signals
from jaxmodels.experiment.start import apply_start
from jaxmodels.train import (
    Action,
    Diverged,
    OnScalars,
    State,
    batch_stats_estimator,
    check_finite,
    evaluator,
    fit,
    init,
    state_is_finite,
    trainable_params,
)
from jaxmodels.train.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a run: final state, metrics by name, folder."""

    state: State
    metrics: Mapping[str, Any]
    folder: Folder


def train(
    experiment: Experiment, options: Options, folder: str | os.PathLike[str] | Folder
) -> Outcome:
    """Train the experiment in `folder`, as `run_setup` does; `options` are `Options()` or others.

    `run` is this for the command line: it also makes the folder and its `config.json`.
    """
    return run_setup(set_up(experiment, options), folder_path(folder))


def run_setup(setup: Setup, folder: Folder) -> Outcome:
    """Train in `folder`, resuming from the newest good checkpoint if there is one.

    Raises:
        UserError: options, experiment and folder do not fit together.
        SaveFailed: a checkpoint cannot be written; the message names the last good one.
        Diverged: a loss is not finite, and `options.on_nan` is "stop"; such states are not saved.
        SystemExit: a signal stopped the run; the state is saved.
    """
    with open_mirror(folder) as mirror:
        return _run(setup, mirror)


def _run(setup: Setup, mirror: Mirror) -> Outcome:
    experiment, options, mesh = setup.experiment, setup.options, setup.mesh
    folder = mirror.folder
    every = options.interval("log_every", experiment.steps, 100)
    with (
        Recorder(
            mirror.files, experiment.steps, experiment.train.batch_size, every, mesh.devices.flat
        ) as recorder,
        open_checkpoints(experiment, options, folder) as checkpoints,
        _note_last_checkpoint(checkpoints, folder),
        catch_signals() as stop,
        abort_with_peers(folder / CHECKPOINTS),
    ):
        run = _Run(**vars(setup), mirror=mirror, recorder=recorder, checkpoints=checkpoints)
        state = run.restore_or_init()
        state = state if options.evaluate else run.fit(state, stop)
        metrics = {} if stop.number else run.metrics(state)
        checkpoints.wait()
        if metrics:
            checkpoints.add_metrics(int(state.step), report.single_values(metrics))
    if stop.number:
        mirror.copy()
        if (usage := recorder.record_cost()) and options.evaluate:
            print("stopped before everything was evaluated; nothing was saved")
        elif usage:
            step, command = f"{int(state.step):,}", resume_command(folder)
            print(f"stopped and saved at step {step}; resume with\n  {command}")
            # Last: counting FLOPs takes a moment, which a preempted machine may not have.
            print(report.cost_lines(compute_costs(experiment, state, usage, mesh, options.price)))
        raise SystemExit(stop.number)
    if options.on_nan == "skip":
        metrics = {**metrics, "train/skipped": int(state.skipped)}
    with abort_with_peers(folder / CHECKPOINTS):
        _write_results(run, state, metrics)
        # The others wait here: at exit they would only wait for the heartbeat's timeout.
        multihost_utils.sync_global_devices("the page is written")
    return Outcome(state, metrics, folder)


def open_checkpoints(experiment: Experiment, options: Options, folder: Folder) -> Checkpoints:
    """Open the run's checkpoints: the newest are kept, and the best by `best_metric`."""
    best = experiment.best_metric
    higher = best is not None and bool(experiment.metric_types[best].higher_is_better)
    return Checkpoints(folder / CHECKPOINTS, keep=options.keep, best=best, minimize=not higher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run(Setup):
    """A running experiment: what happens before, between and after steps."""

    mirror: Mirror
    recorder: Recorder
    checkpoints: Checkpoints
    latest: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """The latest metrics, by their step."""

    def restore_or_init(self) -> State:
        """The state of the newest good checkpoint, or a new one."""
        restored = self.checkpoints.restore_latest(self.abstract_state)
        for reason in restored.rejected if restored else ():
            self.recorder.message(f"skipped a damaged checkpoint: {reason}")
        state = restored.state if restored else self._new_state()
        first, steps = int(state.step), self.experiment.steps
        if not self.options.evaluate:
            _check_steps(steps - first, first, self.options.steps_per_call)
        self.recorder.resume(first)
        self.recorder.message(self._first_line(state))
        if self.options.evaluate and not restored and self.experiment.start is None:
            self.recorder.message("evaluated are the initial params: no checkpoint and no --start")
        return state

    def fit(self, state: State, stop: StopRequest) -> State:
        """Take the remaining steps, or stop at a signal and save the state."""
        steps, per_call = self.experiment.steps, self.options.steps_per_call
        state = fit(
            state,
            self.step,
            self.experiment.train,
            self.mesh,
            steps,
            per_call if per_call > 1 else None,
            self._on_scalars,
            [
                Action(self.options.interval("eval_every", steps, 10), self.evaluate),
                Action(self.options.interval("save_every", steps, 10), self.save),
            ],
            stop,
        )
        if stop.number:
            self.save(int(state.step), state)
        return state

    def evaluate(self, n: int, state: State) -> None:
        """Evaluate the state and record its metrics; save it if it is the best one."""
        self.latest.clear()
        self.latest[n] = self._evaluate(state)
        self.recorder.write_metrics(n, self.latest[n], self.experiment.metric_types)
        if self.checkpoints.improves(report.single_values(self.latest[n])):
            self.save(n, state)

    def metrics(self, state: State) -> dict[str, Any]:
        """The metrics of this state, evaluated unless they are known."""
        return self.latest.get(int(state.step)) or self._evaluate(state)

    def variables(self, state: State) -> dict[str, Any]:
        """The variables to evaluate: `eval_params` and the collections that belong to them."""
        params, collections = self.experiment.eval_params(state), state.collections
        if self.experiment.eval_params is not trained_params:
            collections = self._batch_stats(params, collections)
        return {"params": params, **collections}

    def save(self, n: int, state: State) -> None:
        """Save the state; raises `Diverged` if it is not finite, so that good checkpoints stay."""
        if not self._state_is_finite(state):
            message = f"the loss of step {n} is finite, but params or state after it are not"
            raise Diverged(message, n)
        self.recorder.end_window()
        self.mirror.copy()  # Before: a checkpoint's lines are always on disk.
        self.checkpoints.save(n, state, report.single_values(self.latest.get(n, {})))

    def _first_line(self, state: State) -> str:
        """How many parameters there are and are trained, on what, for how many steps."""
        count, first = tree.parameter_count(state.params), int(state.step)
        trained = tree.parameter_count(trainable_params(state.params, self.experiment.trainable))
        where = f"on {self.mesh.size} x {self.mesh.devices.flat[0].device_kind}"
        if self.options.evaluate:
            return f"{count:,} parameters {where}, evaluated at step {first:,} of this run"
        return (
            f"{count:,} parameters"
            + (f", {trained:,} of them trained," if trained < count else "")
            + f" {where}, {self.experiment.steps:,} steps"
            + (f", resumed at step {first:,}" if first else "")
        )

    def _new_state(self) -> State:
        experiment, key = self.experiment, jax.random.key(self.options.seed)
        parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
        state = init(key, *parts, self.mesh, experiment.placement, experiment.trainable)
        if experiment.start is None:
            return state
        trained = functools.partial(trainable_params, trainable=experiment.trainable)
        state = apply_start(state, experiment.start, experiment.optimizer, trained)
        if not getattr(experiment.start, "averaged", False):
            return state
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state.collections)
        collections = self._batch_stats(state.params, state.collections)
        return dataclasses.replace(state, collections=jax.device_put(collections, shardings))

    def _evaluate(self, state: State) -> dict[str, Any]:
        variables = self.variables(state)
        params, collections = variables["params"], {**variables}
        del collections["params"]
        return {
            f"{name}/{metric}": value
            for name, evaluate in self._evaluators.items()
            for metric, value in evaluate(params, collections).items()
        }

    @functools.cached_property
    def _on_scalars(self) -> OnScalars:
        if self.options.on_nan == "skip":
            return self.recorder.add_scalars
        check = check_finite()

        def checked(n: int, scalars: dict[str, Any]) -> None:
            check(n, scalars)
            self.recorder.add_scalars(n, scalars)

        return checked

    @functools.cached_property
    def _evaluators(self) -> dict[str, Any]:
        parts = self.experiment.evaluate.items()
        return {name: evaluator(part, self.mesh) for name, part in parts}

    @functools.cached_property
    def _batch_stats(self) -> Any:
        experiment = self.experiment
        return batch_stats_estimator(experiment.prepared_objective, experiment.train, self.mesh)

    @functools.cached_property
    def _state_is_finite(self) -> Any:
        return jax.jit(state_is_finite)


@contextlib.contextmanager
def _note_last_checkpoint(checkpoints: Checkpoints, folder: Folder) -> Iterator[None]:
    """Add the last good checkpoint and how to resume to the message of `Diverged`."""
    try:
        yield
    except Diverged as error:
        checkpoints.wait()
        steps = checkpoints.steps()
        last = folder / CHECKPOINTS / str(steps[-1]) if steps else "none was saved yet"
        error.add_note(f"last good checkpoint: {last}")
        error.add_note(
            f"to resume and skip such updates:\n  {resume_command(folder)} --on-nan skip"
        )
        raise


def _check_steps(left: int, first: int, per_call: int) -> None:
    if left < 0:
        raise UserError(
            f"the run is already at step {first}, {-left} beyond --steps; "
            f"give --steps {first} or more, or another --out"
        )
    if left % per_call:
        raise UserError(
            f"{left} steps cannot be divided into calls of {per_call}; choose --steps-per-call "
            f"from the divisors of {left}"
        )


def _write_results(run: _Run, state: State, metrics: Mapping[str, Any]) -> None:
    """Write results and page, and print the summary; all processes compute, process 0 writes."""
    usage = run.recorder.record_cost()
    if usage is not None:
        write_json(run.mirror.files / RESULTS, metrics)
    own_sections = report.sections(
        [("Report", lambda: run.experiment.report(run.variables(state), metrics, run.mesh))]
    )
    if usage is None:
        return
    costs = compute_costs(run.experiment, state, usage, run.mesh, run.options.price)
    first = run.recorder.first_step
    write_page(run.mirror.files, run.experiment, state, metrics, own_sections, first, costs)
    run.mirror.copy()
    if skipped := int(state.skipped):
        print(f"{skipped:,} updates were skipped: their loss or the updated state was not finite")
    print(report.cost_lines(costs) + "\n")
    print_summary(run.experiment, metrics, run.mirror.files, run.mirror.folder)
