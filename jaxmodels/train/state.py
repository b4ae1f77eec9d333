"""The training state: params, collections, optimizer state, step number, key."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxmodels.sharding import Rule, fsdp, sharding_tree
from jaxmodels.train.trainable import Trainable, trainable_params
from jaxmodels.typing import Key, Objective, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a run is at a step number; a checkpoint holds this and nothing else.

    Leaves are arrays, or, as in any pytree of this form, their shapes or shardings.
    """

    step: Any
    params: Params
    collections: Any
    opt_state: Any
    key: Any
    """Step n draws from `fold_in(key, n)`."""
    skipped: Any
    """How many updates `skip_nonfinite` has left out."""


def init(
    key: Key,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    example: Any,
    mesh: Mesh,
    rule: Rule = fsdp,
    trainable: Trainable | None = None,
) -> State:
    """The state at step 0, made in place on the mesh: no device ever holds the whole of it.

    Args:
        key: makes the params, and is the source of all randomness of the steps.
        objective: has `init(key, batch)`.
        optimizer: its state is placed by the same rule as the params.
        example: a batch's shapes and dtypes; values are not read.
        mesh: the devices.
        rule: `(path, leaf, mesh) -> PartitionSpec`; see `sharding.rules`.
        trainable: which params the optimizer has state for; all if absent.
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
    """The shapes, dtypes and shardings of `init`'s state; nothing is computed."""
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
