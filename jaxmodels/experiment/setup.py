"""From an experiment and the options of a run to what is trained, before anything is written."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxmodels import grads, sharding
from jaxmodels.adapters.remat import POLICIES, saving
from jaxmodels.errors import UserError
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.options import Options
from jaxmodels.sharding.mesh import field_sharding
from jaxmodels.train import State, abstract, placed_step, repeat, skip_nonfinite, update
from jaxmodels.train.step import Update
from jaxmodels.typing import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is trained.

    Attributes:
        experiment: configured.
        options: those that it was configured with.
        mesh: the devices.
        like: shapes and shardings of the state.
        step: under `jit`; of several steps a call if the options say so.
    """

    experiment: Experiment
    options: Options
    mesh: Mesh
    like: State
    step: Update


def prepare(
    experiment: Experiment, options: Options, devices: Sequence[Any] | None = None
) -> Prepared:
    """Configure the experiment and trace its step; jit keeps what was traced for the first call.

    On all devices, or those given.

    Raises:
        UserError: mesh, batch, model and data do not fit together.
    """
    mesh = check(experiment, options, devices)
    experiment = configured(experiment, options)
    parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
    like = abstract(*parts, mesh, experiment.placement)
    batch = sharding.abstract_batch(experiment.train.example, mesh)
    step = plain_step(experiment, options)
    if (count := options.steps_per_call) > 1:
        batch, step = stacked(batch, mesh, count), repeat(step)
    step = placed_step(step, like)
    step.trace(like, batch)
    return Prepared(experiment=experiment, options=options, mesh=mesh, like=like, step=step)


def stacked(batch: Batch, mesh: Mesh, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of what a call of `count` steps takes."""

    def stack(name: str, x: Any) -> jax.ShapeDtypeStruct:
        shape = (count, *x.shape)
        placed = field_sharding(name, shape, mesh, leading=1)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=placed)

    return {name: stack(name, x) for name, x in batch.items()}


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


def plain_step(experiment: Experiment, options: Options) -> Update:
    """One step of a configured experiment, not compiled."""
    step = update(experiment.prepared_objective, experiment.optimizer, experiment.grad)
    return skip_nonfinite(step) if options.on_nan == "skip" else step
