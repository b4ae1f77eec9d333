"""A run: begin or go on, train, evaluate, save, and leave a page behind."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxmodels import grads, report, sharding, tree
from jaxmodels.experiment.bucket import CHECKPOINTS, Folder, Mirror, mirrored
from jaxmodels.experiment.claim import Experiment
from jaxmodels.experiment.cost import account
from jaxmodels.experiment.folder import RESULTS, continuation, write_json
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.page import PAGE, write_page
from jaxmodels.experiment.record import Recorder
from jaxmodels.experiment.signals import Asked, listening, together
from jaxmodels.report.verdict import better_by, single_values
from jaxmodels.saved import POLICIES, saving
from jaxmodels.train import (
    Action,
    Diverged,
    OnScalars,
    State,
    abstract,
    check_finite,
    compile_step,
    evaluator,
    fit,
    healthy,
    init,
    repeat,
    skip_nonfinite,
    update,
)
from jaxmodels.train.checkpoint import Checkpoints
from jaxmodels.train.step import Update
from jaxmodels.typing import UserError


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run ends with."""

    state: State
    figures: Mapping[str, Any]
    folder: Folder


def train(experiment: Experiment, options: Options, folder: Folder) -> Outcome:
    """Train the experiment in `folder`, from the newest good checkpoint there if there is one.

    Raises:
        UserError: a mistake of the user's.
        SaveFailed: a checkpoint cannot be written; it names the last good one.
        Diverged: a loss is not finite, and `options.on_nan` is "stop"; nothing such was saved.
        SystemExit: a signal asked to stop; the state is saved.
    """
    with mirrored(folder) as mirror:
        return _train(experiment, options, mirror)


def _train(experiment: Experiment, options: Options, mirror: Mirror) -> Outcome:
    folder = mirror.folder
    mesh = check(experiment, options)
    experiment = configured(experiment, options)
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
        run = _Run(experiment, options, mesh, mirror, recorder, checkpoints)
        state = run.fit(run.begin(), asked)
        figures = {} if asked.number else run.figures(state)
        checkpoints.wait()
    if asked.number:
        mirror.copy()
        if jax.process_index() == 0:
            step, command = f"{int(state.step):,}", continuation(folder)
            print(f"stopped and saved at step {step}; go on with\n  {command}")
        raise SystemExit(asked.number)
    if options.on_nan == "skip":
        figures = {**figures, "train/skipped": int(state.skipped)}
    with together(folder / CHECKPOINTS):
        _conclude(experiment, mesh, state, figures, mirror, recorder, options.price)
        # At their end the others would wait for the page no longer than `hosts.PATIENCE`.
        multihost_utils.sync_global_devices("the page is written")
    return Outcome(state, figures, folder)


def check(experiment: Experiment, options: Options, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of the options; raises `UserError` where it is none, or the batch does not fit."""
    mesh = sharding.mesh(options.mesh, devices)
    batch_size, parts = experiment.train.batch_size, options.accumulate
    if batch_size % parts:
        raise UserError(
            f"a batch of {batch_size} cannot be taken in {parts} equal parts; "
            f"choose a batch size that is a multiple of {parts}, or another --accumulate"
        )
    sharding.local_rows(mesh, batch_size)
    return mesh


def configured(experiment: Experiment, options: Options) -> Experiment:
    """The experiment with the precision, seed, accumulation and so on of the options."""
    policy = POLICIES[options.saved]
    if policy is not None:
        objective = saving(experiment.objective, policy)
        experiment = dataclasses.replace(experiment, objective=objective)
    if options.precision == "bf16":
        experiment = experiment.in_precision(jnp.bfloat16)
    grad = experiment.grad
    if options.accumulate > 1:
        grad = grads.accumulate(options.accumulate, grad)
    return dataclasses.replace(experiment, train=experiment.train.reseed(options.seed), grad=grad)


def compiled_step(experiment: Experiment, options: Options) -> Any:
    """The step of a configured experiment; of several steps a call if the options say so."""
    step = plain_step(experiment, options)
    return compile_step(step if options.steps_per_call == 1 else repeat(step))


def plain_step(experiment: Experiment, options: Options) -> Update:
    """One step of a configured experiment, not compiled."""
    step = update(experiment.prepared_objective, experiment.optimizer, experiment.grad)
    return skip_nonfinite(step) if options.on_nan == "skip" else step


def open_checkpoints(experiment: Experiment, options: Options, folder: Folder) -> Checkpoints:
    """The run's checkpoints: the newest ones, and the best by the experiment's figure."""
    best = experiment.best_figure
    lower = best is None or (better_by(best, 0.0, 1.0) or 0.0) >= 0
    return Checkpoints(folder / CHECKPOINTS, keep=options.keep, best=best, minimize=lower)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The parts of a run under way, and what it does between steps."""

    experiment: Experiment
    options: Options
    mesh: Mesh
    mirror: Mirror
    recorder: Recorder
    checkpoints: Checkpoints
    judged: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """The latest figures, under their step."""

    def begin(self) -> State:
        """The newest good checkpoint's state, or a new one."""
        experiment = self.experiment
        parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
        like = abstract(*parts, self.mesh, experiment.placement)
        restored = self.checkpoints.restore_latest(like)
        for reason in restored.rejected if restored else ():
            self.recorder.message(f"damaged checkpoint passed over: {reason}")
        key = jax.random.key(self.options.seed)
        state = restored.state if restored else init(key, *parts, self.mesh, experiment.placement)
        begin = int(state.step)
        _check_steps(experiment.steps - begin, begin, self.options.steps_per_call)
        self.recorder.resume(begin)
        self.recorder.message(
            f"{tree.count(like.params):,} parameters on {self.mesh.size} x "
            f"{self.mesh.devices.flat[0].device_kind}, {experiment.steps:,} steps"
            + (f", going on at {begin:,}" if begin else "")
        )
        return state

    def fit(self, state: State, asked: Asked) -> State:
        """Take the steps that are left, or as many as a signal allows, and save the last."""
        steps, per_call = self.experiment.steps, self.options.steps_per_call
        state = fit(
            state,
            compiled_step(self.experiment, self.options),
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
