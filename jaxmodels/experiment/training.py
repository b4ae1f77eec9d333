"""A run: start or resume, train, evaluate, save, and write the page."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxmodels import report, tree
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, Mirror, mirrored
from jaxmodels.experiment.cost import account
from jaxmodels.experiment.experiment import Experiment, trained_params
from jaxmodels.experiment.files import RESULTS, write_json
from jaxmodels.experiment.folder import resume_command
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.page import print_summary, write_page
from jaxmodels.experiment.recorder import Recorder
from jaxmodels.experiment.setup import Setup, set_up
from jaxmodels.experiment.signals import StopRequest, abort_with_peers, listen
from jaxmodels.experiment.start import started
from jaxmodels.train import (
    Action,
    Diverged,
    OnScalars,
    State,
    batch_stats_estimator,
    check_finite,
    evaluator,
    fit,
    healthy,
    init,
    trainable_params,
)
from jaxmodels.train.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run ends with: its state, its metrics by name, its folder."""

    state: State
    metrics: Mapping[str, Any]
    folder: Folder


def train(experiment: Experiment, options: Options, folder: Folder) -> Outcome:
    """Set the experiment up, and train it in `folder`."""
    return run_in(set_up(experiment, options), folder)


def run_in(setup: Setup, folder: Folder) -> Outcome:
    """Train in `folder`, from the newest good checkpoint there if there is one.

    Raises:
        UserError: a mistake of the user's.
        SaveFailed: a checkpoint cannot be written; it names the last good one.
        Diverged: a loss is not finite, and `options.on_nan` is "stop"; nothing such was saved.
        SystemExit: a signal asked to stop; the state is saved.
    """
    with mirrored(folder) as mirror:
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
        _name_last_good(checkpoints, folder),
        listen() as stop,
        abort_with_peers(folder / CHECKPOINTS),
    ):
        run = _Run(**vars(setup), mirror=mirror, recorder=recorder, checkpoints=checkpoints)
        state = run.begin()
        state = state if options.evaluate else run.fit(state, stop)
        metrics = {} if stop.number else run.metrics(state)
        checkpoints.wait()
    if stop.number:
        mirror.copy()
        if spent := recorder.spent():
            step, command = f"{int(state.step):,}", resume_command(folder)
            print(f"stopped and saved at step {step}; resume with\n  {command}")
            # Last, for it takes a moment, and a machine that is preempted may have none.
            print(report.cost_lines(account(experiment, state, spent, mesh, options.price)))
        raise SystemExit(stop.number)
    if options.on_nan == "skip":
        metrics = {**metrics, "train/skipped": int(state.skipped)}
    with abort_with_peers(folder / CHECKPOINTS):
        _conclude(run, state, metrics)
        # Else the others, at their end, would wait no longer than the heartbeat's timeout.
        multihost_utils.sync_global_devices("the page is written")
    return Outcome(state, metrics, folder)


def open_checkpoints(experiment: Experiment, options: Options, folder: Folder) -> Checkpoints:
    """The run's checkpoints: the newest ones, and the best by the experiment's metric."""
    best = experiment.best_metric
    higher = best is not None and bool(experiment.metric_types[best].higher_is_better)
    return Checkpoints(folder / CHECKPOINTS, keep=options.keep, best=best, minimize=not higher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run(Setup):
    """A run under way, and what it does between steps."""

    mirror: Mirror
    recorder: Recorder
    checkpoints: Checkpoints
    latest: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """The latest metrics, under their step."""

    def begin(self) -> State:
        """The newest good checkpoint's state, or a new one."""
        restored = self.checkpoints.restore_latest(self.abstract_state)
        for reason in restored.rejected if restored else ():
            self.recorder.message(f"damaged checkpoint passed over: {reason}")
        state = restored.state if restored else self._new_state()
        begin, steps = int(state.step), self.experiment.steps
        if not self.options.evaluate:
            _check_steps(steps - begin, begin, self.options.steps_per_call)
        self.recorder.resume(begin)
        self.recorder.message(
            f"{tree.parameter_count(state.params):,} parameters on {self.mesh.size} x "
            f"{self.mesh.devices.flat[0].device_kind}, {steps:,} steps"
            + (f", resumed at {begin:,}" if begin else "")
        )
        return state

    def fit(self, state: State, stop: StopRequest) -> State:
        """Take the steps that are left, or as many as a signal allows, and save the last."""
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
        """Evaluate the state, and write its metrics down."""
        self.latest.clear()
        self.latest[n] = self._evaluated(state)
        self.recorder.metrics(n, self.latest[n], self.experiment.metric_types)

    def metrics(self, state: State) -> dict[str, Any]:
        """The metrics of this state, evaluated if they have not been."""
        return self.latest.get(int(state.step)) or self._evaluated(state)

    def variables(self, state: State) -> dict[str, Any]:
        """The variables that are evaluated: params, and the collections that belong to them."""
        params, collections = self.experiment.eval_params(state), state.collections
        if self.experiment.eval_params is not trained_params:
            collections = self._batch_stats(params, collections)
        return {"params": params, **collections}

    def save(self, n: int, state: State) -> None:
        """Save the state, unless it is not finite: the good ones stay."""
        if not self._healthy(state):
            message = f"the loss of step {n} is finite, but params or state are not after it"
            raise Diverged(message, n)
        self.recorder.end_window()
        self.mirror.copy()  # Before: the lines up to a checkpoint that is there are there.
        self.checkpoints.save(n, state, report.single_values(self.latest.get(n, {})))

    def _new_state(self) -> State:
        experiment, key = self.experiment, jax.random.key(self.options.seed)
        parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
        state = init(key, *parts, self.mesh, experiment.placement, experiment.trainable)
        if experiment.start is None:
            return state
        trained = functools.partial(trainable_params, trainable=experiment.trainable)
        return started(state, experiment.start, experiment.optimizer, trained)

    def _evaluated(self, state: State) -> dict[str, Any]:
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
            return self.recorder.scalars
        check = check_finite()

        def checked(n: int, scalars: dict[str, Any]) -> None:
            check(n, scalars)
            self.recorder.scalars(n, scalars)

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
    def _healthy(self) -> Any:
        return jax.jit(healthy)


@contextlib.contextmanager
def _name_last_good(checkpoints: Checkpoints, folder: Folder) -> Iterator[None]:
    """Add to `Diverged` the checkpoint from which the run can be resumed."""
    try:
        yield
    except Diverged as error:
        checkpoints.wait()
        steps = checkpoints.steps()
        last = folder / CHECKPOINTS / str(steps[-1]) if steps else "none was saved yet"
        error.add_note(f"last good checkpoint: {last}")
        error.add_note(
            f"to resume and leave such updates out:\n  {resume_command(folder)} --on-nan skip"
        )
        raise


def _check_steps(left: int, begin: int, per_call: int) -> None:
    if left < 0:
        raise UserError(
            f"the run is at step {begin} already, {-left} beyond the steps asked for; "
            f"give --steps {begin} or more, or another --out"
        )
    if left % per_call:
        raise UserError(
            f"{left} steps cannot be taken {per_call} a call; choose --steps-per-call from the "
            f"divisors of {left}"
        )


def _conclude(run: _Run, state: State, metrics: Mapping[str, Any]) -> None:
    """Write results and page, and print where they are; every process computes, one writes."""
    spent = run.recorder.spent()
    if spent is not None:
        write_json(run.mirror.files / RESULTS, metrics)
    shown = report.sections(
        [("Report", lambda: run.experiment.report(run.variables(state), metrics, run.mesh))]
    )
    if spent is None:
        return
    costs = account(run.experiment, state, spent, run.mesh, run.options.price)
    first = run.recorder.first_step
    write_page(run.mirror.files, run.experiment, state, metrics, shown, first, costs)
    run.mirror.copy()
    if skipped := int(state.skipped):
        print(f"{skipped:,} updates were skipped: their loss, or what they made, was not finite")
    print(report.cost_lines(costs) + "\n")
    print_summary(run.experiment, metrics, run.mirror.files, run.mirror.folder)
