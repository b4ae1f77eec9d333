"""A run: begin or go on, train, evaluate, save, and leave a page behind."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxmodels import report, sharding, tree
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, Mirror, mirrored
from jaxmodels.experiment.cost import account
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.folder import RESULTS, continuation, write_json
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.page import PAGE, write_page
from jaxmodels.experiment.recorder import Recorder
from jaxmodels.experiment.setup import Prepared, prepare
from jaxmodels.experiment.signals import Asked, listening, together
from jaxmodels.report.verdict import better_by, single_values
from jaxmodels.train import (
    Action,
    Diverged,
    OnScalars,
    State,
    check_finite,
    evaluator,
    fit,
    healthy,
    init,
)
from jaxmodels.train.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run ends with."""

    state: State
    figures: Mapping[str, Any]
    folder: Folder


def train(experiment: Experiment, options: Options, folder: Folder) -> Outcome:
    """Prepare the experiment, and train it in `folder`."""
    return train_prepared(prepare(experiment, options), folder)


def train_prepared(prepared: Prepared, folder: Folder) -> Outcome:
    """Train in `folder`, from the newest good checkpoint there if there is one.

    Raises:
        UserError: a mistake of the user's.
        SaveFailed: a checkpoint cannot be written; it names the last good one.
        Diverged: a loss is not finite, and `options.on_nan` is "stop"; nothing such was saved.
        SystemExit: a signal asked to stop; the state is saved.
    """
    with mirrored(folder) as mirror:
        return _train(prepared, mirror)


def _train(prepared: Prepared, mirror: Mirror) -> Outcome:
    experiment, options, mesh = prepared.experiment, prepared.options, prepared.mesh
    folder = mirror.folder
    every = options.interval("log_every", experiment.steps, 100)
    with (
        Recorder(
            mirror.files, experiment.steps, experiment.train.batch_size, every, mesh.devices.flat
        ) as recorder,
        open_checkpoints(experiment, options, folder) as checkpoints,
        _naming_the_last_good(checkpoints, folder),
        listening() as asked,
        together(folder / CHECKPOINTS),
    ):
        run = _Run(**vars(prepared), mirror=mirror, recorder=recorder, checkpoints=checkpoints)
        state = run.fit(run.begin(), asked)
        figures = {} if asked.number else run.figures(state)
        checkpoints.wait()
    if asked.number:
        mirror.copy()
        if spent := recorder.spent():
            step, command = f"{int(state.step):,}", continuation(folder)
            print(f"stopped and saved at step {step}; go on with\n  {command}")
            # Last, for it takes a moment, and a machine that is preempted may have none.
            print(report.cost_lines(account(experiment, state, spent, mesh, options.price)))
        raise SystemExit(asked.number)
    if options.on_nan == "skip":
        figures = {**figures, "train/skipped": int(state.skipped)}
    with together(folder / CHECKPOINTS):
        _conclude(experiment, mesh, state, figures, mirror, recorder, options.price)
        # At their end the others would wait for the page no longer than `HEARTBEAT_TIMEOUT`.
        multihost_utils.sync_global_devices("the page is written")
    return Outcome(state, figures, folder)


def open_checkpoints(experiment: Experiment, options: Options, folder: Folder) -> Checkpoints:
    """The run's checkpoints: the newest ones, and the best by the experiment's figure."""
    best = experiment.best_figure
    lower = best is None or (better_by(best, 0.0, 1.0) or 0.0) >= 0
    return Checkpoints(folder / CHECKPOINTS, keep=options.keep, best=best, minimize=lower)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run(Prepared):
    """The parts of a run under way, and what it does between steps."""

    mirror: Mirror
    recorder: Recorder
    checkpoints: Checkpoints
    judged: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """The latest figures, under their step."""

    def begin(self) -> State:
        """The newest good checkpoint's state, or a new one."""
        restored = self.checkpoints.restore_latest(self.like)
        for reason in restored.rejected if restored else ():
            self.recorder.message(f"damaged checkpoint passed over: {reason}")
        state = restored.state if restored else self._new()
        begin, steps = int(state.step), self.experiment.steps
        _check_steps(steps - begin, begin, self.options.steps_per_call)
        self.recorder.resume(begin)
        self.recorder.message(
            f"{tree.parameter_count(state.params):,} parameters on {self.mesh.size} x "
            f"{self.mesh.devices.flat[0].device_kind}, {steps:,} steps"
            + (f", going on at {begin:,}" if begin else "")
        )
        return state

    def fit(self, state: State, asked: Asked) -> State:
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
                Action(self.options.interval("eval_every", steps, 10), self.judge),
                Action(self.options.interval("save_every", steps, 10), self.save),
            ],
            asked,
        )
        if asked.number:
            self.save(int(state.step), state)
        return state

    def judge(self, n: int, state: State) -> None:
        """Evaluate the state, and write the figures down."""
        self.judged.clear()
        self.judged[n] = self._evaluate(state)
        self.recorder.figures(n, self.judged[n])

    def figures(self, state: State) -> dict[str, Any]:
        """The figures of this state, evaluated if they have not been."""
        return self.judged.get(int(state.step)) or self._evaluate(state)

    def save(self, n: int, state: State) -> None:
        """Save the state, unless it is not finite: the good ones stay."""
        if not self._healthy(state):
            message = f"the loss of step {n} is finite, but params or state are not after it"
            raise Diverged(message, n)
        self.recorder.end_window()
        self.mirror.copy()  # Before: the lines up to a checkpoint that is there are there.
        self.checkpoints.save(n, state, single_values(self.judged.get(n, {})))

    def _new(self) -> State:
        experiment, key = self.experiment, jax.random.key(self.options.seed)
        parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
        return init(key, *parts, self.mesh, experiment.placement)

    def _evaluate(self, state: State) -> dict[str, Any]:
        params = self.experiment.evaluated(state)
        return {
            f"{name}/{figure}": value
            for name, evaluate in self._evaluators.items()
            for figure, value in evaluate(params, state.collections).items()
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
    def _healthy(self) -> Any:
        return jax.jit(healthy)


@contextlib.contextmanager
def _naming_the_last_good(checkpoints: Checkpoints, folder: Folder) -> Iterator[None]:
    """Add to `Diverged` from where the run can go on."""
    try:
        yield
    except Diverged as error:
        checkpoints.wait()
        steps = checkpoints.steps()
        last = folder / CHECKPOINTS / str(steps[-1]) if steps else "none was saved yet"
        error.add_note(f"last good checkpoint: {last}")
        error.add_note(
            f"to go on and leave such updates out:\n  {continuation(folder)} --on-nan skip"
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


def _conclude(
    experiment: Experiment,
    mesh: Mesh,
    state: State,
    figures: Mapping[str, Any],
    mirror: Mirror,
    recorder: Recorder,
    price: float | None,
) -> None:
    """Write results and page, and print where they are."""
    variables = {"params": experiment.evaluated(state), **state.collections}
    whole = jax.device_get(jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(variables))
    spent = recorder.spent()
    if spent is None:
        return
    write_json(mirror.files / RESULTS, figures)
    costs = account(experiment, state, spent, mesh, price)
    write_page(mirror.files, experiment, state, whole, figures, recorder.first_step, costs)
    mirror.copy()
    if skipped := int(state.skipped):
        print(f"{skipped:,} updates were skipped: their loss, or what they made, was not finite")
    print(report.cost_lines(costs) + "\n")
    folder, page = str(mirror.folder), str(mirror.folder / PAGE)
    command = continuation(mirror.folder)
    print(report.summary(figures, experiment.published, folder, page, command))
