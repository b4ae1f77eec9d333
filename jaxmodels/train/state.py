"""The training state: params, collections, optimizer state, step number, key."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxmodels.errors import UserError
from jaxmodels.sharding import Rule, fsdp, sharding_tree
from jaxmodels.train.trainable import Trainable, trainable_params
from jaxmodels.typing import Key, Objective, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The complete state of a training run; what a checkpoint contains.

    Leaves are arrays, or their shapes or shardings.
    """

    step: Any
    params: Params
    collections: Any
    opt_state: Any
    key: Any
    """Step n uses the key `fold_in(key, n)`."""
    skipped: Any
    """Number of updates skipped by `skip_nonfinite`."""


def init(
    key: Key,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    example: Any,
    mesh: Mesh,
    rule: Rule = fsdp,
    trainable: Trainable | None = None,
) -> State:
    """Initialise the state at step 0, sharded over the mesh: no device ever holds all of it.

    Args:
        key: PRNG key of the params and of all steps.
        objective: its `init(key, batch)` makes params and collections.
        optimizer: its state is placed by the same rule as the params.
        example: shapes and dtypes of a batch.
        mesh: the device mesh.
        rule: `(path, leaf, mesh) -> PartitionSpec`; see `sharding.rules`.
        trainable: the params with optimizer state; all if absent.
    """
    make = _state_maker(objective, optimizer, example, trainable)
    return jax.jit(make, out_shardings=sharding_tree(jax.eval_shape(make, key), mesh, rule))(key)


def abstract_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    example: Any,
    mesh: Mesh,
    rule: Rule = fsdp,
    trainable: Trainable | None = None,
) -> State:
    """Shapes, dtypes and shardings of the state that `init` returns; nothing is computed."""
    make = _state_maker(objective, optimizer, example, trainable)
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        sharding_tree(shapes, mesh, rule),
    )


def _state_maker(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    example: Any,
    trainable: Trainable | None,
) -> Callable[[Key], State]:
    if not isinstance(objective, Objective):
        raise UserError(
            "an objective has the methods init(key, batch) and __call__(params, collections, "
            f"batch, key, step), see `jaxmodels.typing.Objective`; got {objective!r}"
        )

    def make(key: Key) -> State:
        init_key, steps_key = jax.random.split(key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
        params, collections = objective.init(init_key, zeros)
        return State(
            step=jnp.int32(0),
            params=params,
            collections=collections,
            opt_state=optimizer.init(trainable_params(params, trainable)),
            key=steps_key,
            skipped=jnp.int32(0),
        )

    return make
