"""The training step: update, skipping of non-finite updates, several steps per call, jit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmodels.errors import UserError
from jaxmodels.grads import Grad
from jaxmodels.sharding.mesh import use_mesh
from jaxmodels.sharding.rules import current_shardings
from jaxmodels.train.state import State
from jaxmodels.train.trainable import Trainable, TrainableObjective, merge_frozen, trainable_params
from jaxmodels.typing import Array, Batch, Scalars

Update = Callable[[State, Batch], tuple[State, Scalars]]


def update(
    objective: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    grad: Grad = jax.value_and_grad,
    trainable: Trainable | None = None,
) -> Update:
    """The training step as a pure function `(state, batch) -> (state, scalars)`, not compiled.

    Args:
        objective: `(params, collections, batch, key, step) -> (loss, Aux)`.
        optimizer: an optax transformation.
        grad: a function with the interface of `jax.value_and_grad`, such as `grads.accumulate(4)`.
        trainable: the params that are updated; all if absent.
    """

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        key = jax.random.fold_in(state.key, state.step)
        trained = trainable_params(state.params, trainable)
        _check_optimizer_state(optimizer, trained, state.opt_state)
        fn = objective if trainable is None else TrainableObjective(objective, state.params)
        (loss, aux), gradient = grad(fn, has_aux=True)(
            trained, state.collections, batch, key, state.step
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=merge_frozen(optax.apply_updates(trained, updates), state.params),
            collections=aux.collections,
            opt_state=opt_state,
        )
        return new, {"loss": loss, **aux.scalars}

    return step


def _check_optimizer_state(optimizer: Any, trained: Any, opt_state: Any) -> None:
    """Raise `UserError` where the state was made for other params than those that are trained."""
    expected = jax.tree.structure(jax.eval_shape(optimizer.init, trained))
    if jax.tree.structure(opt_state) != expected:
        raise UserError(
            "the optimizer's state is not that of this optimizer and these trainable params: give "
            "`train.init` and `make_step` (or `update`) the same optimizer and `trainable`"
        )


def skip_nonfinite(step: Update) -> Update:
    """Skip updates whose loss or new state is not finite: only `step` and `skipped` change."""

    def guarded(state: State, batch: Batch) -> tuple[State, Scalars]:
        new, scalars = step(state, batch)
        good = jnp.isfinite(scalars["loss"]) & state_is_finite(new)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        skipped = state.skipped + jnp.where(good, 0, 1)
        return dataclasses.replace(kept, step=new.step, skipped=skipped), scalars

    return guarded


def repeat(step: Update) -> Update:
    """Several steps in one call (`lax.scan`); batches and scalars have a leading axis of steps.

    Small models are bound by the dispatch of a call, about 0.3 ms.
    """
    return lambda state, batches: jax.lax.scan(step, state, batches)


def compile_step(step: Update) -> Update:
    """Jit the step at its first call: the state is donated and keeps its sharding."""
    compiled = None

    def call(state: State, batch: Batch) -> tuple[State, Scalars]:
        nonlocal compiled
        if compiled is None:
            compiled = jit_step(step, state)
        return compiled(state, batch)

    return call


def jit_step(step: Update, state: State) -> Any:
    """Jit the step for states sharded like this one, which may be abstract."""
    mesh = getattr(jax.tree.leaves(state)[0].sharding, "mesh", None)

    def training_step(state: State, batch: Batch) -> tuple[State, Scalars]:
        with use_mesh(mesh):
            return step(state, batch)  # profiles and compilation logs show the name

    # Pinned: XLA is free to choose other output shardings, and the second step would compile again.
    placed = current_shardings(state), None
    return jax.jit(training_step, donate_argnums=0, out_shardings=placed)


def make_step(
    objective: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    grad: Grad = jax.value_and_grad,
    trainable: Trainable | None = None,
) -> Update:
    """The compiled training step `(state, batch) -> (state, scalars)`; the state is donated.

    The arguments are those of `update`.
    """
    return compile_step(update(objective, optimizer, grad, trainable))


def state_is_finite(state: State) -> Array:
    """Whether params and collections are finite and the optimizer state has no NaN.

    An optimizer state may hold infinities on purpose, such as the best loss so far.
    """
    return all_finite((state.params, state.collections)) & ~_any(jnp.isnan, state.opt_state)


def all_finite(tree: Any) -> Array:
    """Whether every value in every leaf is finite."""
    return ~_any(lambda leaf: ~jnp.isfinite(leaf), tree)


def _any(test: Callable[[Array], Array], tree: Any) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.any(jnp.array([jnp.any(test(leaf)) for leaf in leaves]))
