"""Penalties of the params, added to the loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels import tree
from jaxmodels.objectives.objective import Objective, Penalty
from jaxmodels.typing import Array, Params

Mask = Callable[[Params], Any]


def penalized(objective: Objective, *penalties: Penalty) -> Objective:
    """The objective with penalties of the params added, such as `l2(1e-4)`.

    A penalty's gradient passes through the optimizer. Under plain SGD `l2(r)` is the same as
    decoupled decay at rate r; Adam divides it by the gradient's running size, so that weights
    with large gradients are decayed less. Decoupled decay (`optimizers.weight_decay`) shrinks all
    weights alike (Loshchilov and Hutter 2019, "Decoupled weight decay regularization").
    """
    return dataclasses.replace(objective, penalties=objective.penalties + penalties)


def l2(scale: float, mask: Mask = tree.decay_mask) -> Penalty:
    """`scale / 2 * sum(w**2)`: its gradient is `scale * w`, as torch's SGD `weight_decay`."""
    return lambda params: 0.5 * scale * _sum(jnp.square, params, mask)


def l1(scale: float, mask: Mask = tree.decay_mask) -> Penalty:
    """`scale * sum(|w|)`."""
    return lambda params: scale * _sum(jnp.abs, params, mask)


def _sum(fn: Callable[[Array], Array], params: Params, mask: Mask) -> Array:
    terms = jax.tree.map(
        lambda leaf, keep: jnp.sum(fn(leaf.astype(jnp.float32))) if keep else jnp.float32(0),
        params,
        mask(params),
    )
    return jax.tree.reduce(jnp.add, terms, jnp.float32(0))
