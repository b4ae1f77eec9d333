"""What a step carries to the next."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxmodels.sharding import Rule, fsdp, sharding_tree
from jaxmodels.typing import Batch, Collections, Key, Params


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


@runtime_checkable
class Initializable(Protocol):
    """The part of an objective that makes variables."""

    def init(self, key: Key, batch: Batch) -> tuple[Params, Collections]:
        """Make params and collections for batches like this one."""
        ...


def init(
    key: Key,
    objective: Initializable,
    optimizer: optax.GradientTransformation,
    example: Any,
    mesh: Mesh,
    rule: Rule = fsdp,
) -> State:
    """The state at step 0, made in place on the mesh: no device ever holds the whole of it.

    Args:
        key: makes the params, and is the source of all randomness of the steps.
        objective: has `init(key, batch)`.
        optimizer: its state is placed by the same rule as the params.
        example: a batch's shapes and dtypes; values are not read.
        mesh: the devices.
        rule: `(path, leaf, mesh) -> PartitionSpec`; see `sharding.rules`.
    """
    make = _maker(objective, optimizer, example)
    return jax.jit(make, out_shardings=sharding_tree(jax.eval_shape(make, key), mesh, rule))(key)


def abstract(
    objective: Initializable,
    optimizer: optax.GradientTransformation,
    example: Any,
    mesh: Mesh,
    rule: Rule = fsdp,
) -> State:
    """The shapes, dtypes and shardings of `init`'s state; nothing is computed."""
    shapes = jax.eval_shape(_maker(objective, optimizer, example), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        sharding_tree(shapes, mesh, rule),
    )


def _maker(objective: Initializable, optimizer: optax.GradientTransformation, example: Any) -> Any:
    def make(key: Key) -> State:
        init_key, steps_key = jax.random.split(key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
        params, collections = objective.init(init_key, zeros)
        return State(
            step=jnp.int32(0),
            params=params,
            collections=collections,
            opt_state=optimizer.init(params),
            key=steps_key,
            skipped=jnp.int32(0),
        )

    return make
