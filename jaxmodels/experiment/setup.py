"""Setup of a run: mesh, configured experiment, shapes of the state and the jitted step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxmodels import grads, sharding
from jaxmodels.adapters import POLICIES, map_model, remat
from jaxmodels.errors import UserError
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.start import from_run
from jaxmodels.sharding.mesh import field_sharding
from jaxmodels.train import State, abstract_state, jit_step, repeat, skip_nonfinite, update
from jaxmodels.train.step import Update
from jaxmodels.typing import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """A configured experiment, ready to train; nothing is written yet.

    Attributes:
        experiment: with the options applied.
        options: of the run.
        mesh: the device mesh.
        abstract_state: shapes, dtypes and shardings of the state.
        step: the jitted training step, of `options.steps_per_call` steps.
    """

    experiment: Experiment
    options: Options
    mesh: Mesh
    abstract_state: State
    step: Update


def set_up(experiment: Experiment, options: Options, devices: Sequence[Any] | None = None) -> Setup:
    """Configure the experiment and trace its step; `jit` keeps the trace for the first call.

    `devices` defaults to all.

    Raises:
        UserError: mesh, batch, model and data do not fit together.
    """
    mesh = make_mesh(experiment, options, devices)
    experiment = configure(experiment, options)
    parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
    state = abstract_state(*parts, mesh, experiment.placement, experiment.trainable)
    batch = sharding.abstract_batch(experiment.train.example, mesh)
    step = uncompiled_step(experiment, options)
    if (count := options.steps_per_call) > 1:
        batch, step = stack_steps(batch, mesh, count), repeat(step)
    step = jit_step(step, state)
    step.trace(state, batch)
    return Setup(experiment=experiment, options=options, mesh=mesh, abstract_state=state, step=step)


def stack_steps(batch: Batch, mesh: Mesh, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the batches of a call of `count` steps."""

    def stack(name: str, x: Any) -> jax.ShapeDtypeStruct:
        shape = (count, *x.shape)
        placed = field_sharding(name, shape, mesh, leading=1)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=placed)

    return {name: stack(name, x) for name, x in batch.items()}


def make_mesh(
    experiment: Experiment, options: Options, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of `options.mesh`; raises `UserError` if it or the batch size does not fit."""
    mesh = sharding.mesh(options.mesh, devices)
    batch_size, parts = experiment.train.batch_size, options.accumulate
    if batch_size % parts:
        raise UserError(
            f"a batch of {batch_size} cannot be split into {parts} equal parts; "
            f"choose a batch size that is a multiple of {parts}, or another --accumulate"
        )
    sharding.local_rows(mesh, batch_size)
    return mesh


def configure(experiment: Experiment, options: Options) -> Experiment:
    """The experiment with remat, precision, seed, start and accumulation of the options applied."""
    policy = POLICIES[options.remat]
    if policy is not None:
        objective = map_model(experiment.objective, lambda model: remat(model, policy))
        experiment = dataclasses.replace(experiment, objective=objective)
    if options.precision == "bf16":
        experiment = experiment.in_precision(jnp.bfloat16)
    if options.start is not None:
        experiment = dataclasses.replace(experiment, start=from_run(options.start))
    grad = experiment.grad
    if options.accumulate > 1:
        grad = grads.accumulate(options.accumulate, grad)
    return dataclasses.replace(experiment, train=experiment.train.reseed(options.seed), grad=grad)


def uncompiled_step(experiment: Experiment, options: Options) -> Update:
    """The training step of a configured experiment, not compiled."""
    step = update(
        experiment.prepared_objective, experiment.optimizer, experiment.grad, experiment.trainable
    )
    return skip_nonfinite(step) if options.on_nan == "skip" else step
