"""Optax transformations: decoupled L1 and L2 weight decay, exponential moving average of params."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.typing import Params


def weight_decay(rate: float, mask: Any = tree.decay_mask) -> optax.GradientTransformation:
    """Decoupled weight decay (L2): adds `rate * w` to the update.

    Place it after the scaling by gradient statistics and before the learning rate, as
    `optax.adamw(lr, weight_decay=rate, mask=tree.decay_mask)` does. `objectives.penalized`
    describes how it differs from an L2 penalty.
    """
    return optax.add_decayed_weights(rate, mask)


def l1_decay(rate: float, mask: Any = tree.decay_mask) -> optax.GradientTransformation:
    """Decoupled L1 decay: adds `rate * sign(w)` to the update; place it like `weight_decay`."""

    def update(updates: Any, state: Any, params: Params | None = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, w: u + rate * jnp.sign(w), updates, params), state

    return optax.masked(optax.GradientTransformation(optax.init_empty_state, update), mask)


class EmaState(NamedTuple):
    """State of `ema`: the exponential moving average of the params."""

    ema: Params


def ema(decay: float) -> optax.GradientTransformation:
    """Exponential moving average of the params: `ema = decay * ema + (1 - decay) * params`.

    It starts at the initial params. Put it last in a chain, since it reads the final update:
    `optax.chain(optax.adam(1e-3), ema(0.999))`. Updates pass unchanged. `averaged` returns it.
    """

    def update(updates: Any, state: Any, params: Params = None) -> tuple[Any, EmaState]:
        new = optax.apply_updates(params, updates)
        return updates, EmaState(optax.incremental_update(new, state.ema, 1 - decay))

    def init(params: Params) -> EmaState:
        return EmaState(jax.tree.map(jnp.copy, params))

    return optax.GradientTransformation(init, update)


def averaged(state: Any) -> Params:
    """The params averaged by `ema` in this training state, for `Experiment.eval_params`.

    Frozen params are returned as they are.

    Raises:
        UserError: the optimizer has no `ema`, or more than one.
    """
    nodes = jax.tree.leaves(state.opt_state, is_leaf=_is_ema)
    averages = [node.ema for node in nodes if _is_ema(node)]
    if len(averages) != 1:
        raise UserError(
            f"expected one optimizers.ema in the optimizer's chain, found {len(averages)}"
        )
    return jax.tree.map(
        lambda average, param: param if average is None else average,
        averages[0],
        state.params,
        is_leaf=lambda x: x is None,
    )


def _is_ema(node: Any) -> bool:
    return isinstance(node, EmaState)
