"""What training minimises: functions of (params, collections, batch, key)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels import tree
from jaxmodels.typing import Array, Batch, Collections, Key, Model, Params, Scalars

Mask = Callable[[Params], Any]
Penalty = Callable[[Params], Array]


class Aux(NamedTuple):
    """What an objective returns beside the loss."""

    collections: Collections
    scalars: Scalars


def as_stored(key: Key, batch: Batch) -> Batch:
    """The batch, unprepared."""
    del key
    return batch


@dataclasses.dataclass(frozen=True)
class Objective:
    """A model, what it reads of a batch, and how its outputs are scored.

    Calling it returns `(loss, Aux)`: `loss` is the mean over the batch of the first value that
    `score` returns, (B,), plus the penalties. `prepare` is applied to each batch first,
    under `jit`. Anything else with this call and with `init` is an objective as well.
    """

    model: Model
    inputs: Callable[[Batch], tuple[Any, ...]]
    score: Callable[[Any, Batch], tuple[Float[Array, " B"], Scalars]]
    penalties: tuple[Penalty, ...] = ()
    prepare: Callable[[Key, Batch], Batch] = as_stored

    def init(self, key: Key, batch: Batch) -> tuple[Params, Collections]:
        """Make the model's params and other collections."""
        params_key, dropout_key, prepare_key = jax.random.split(key, 3)
        inputs = self.inputs(self.prepare(prepare_key, batch))
        variables = self.model.init({"params": params_key, "dropout": dropout_key}, *inputs)
        return variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def __call__(
        self, params: Params, collections: Collections, batch: Batch, key: Key
    ) -> tuple[Array, Aux]:
        """Compute the loss of a batch in training mode."""
        prepare_key, model_key = jax.random.split(key)
        batch = self.prepare(prepare_key, batch)
        outputs, collections = self.model.apply(
            {"params": params, **collections},
            *self.inputs(batch),
            train=True,
            rngs={"dropout": model_key},
            mutable=list(collections),
        )
        losses, scalars = self.score(outputs, batch)
        scalars = {name: jnp.mean(values) for name, values in scalars.items()}
        loss = jnp.mean(losses)
        if self.penalties:
            scalars["penalty"] = sum(
                (penalty(params) for penalty in self.penalties), jnp.float32(0)
            )
            loss = loss + scalars["penalty"]
        return loss, Aux(collections, scalars)

    def after(self, prepare: Callable[[Key, Batch], Batch]) -> "Objective":
        """The same objective of batches that `prepare` has yet to be applied to."""
        return dataclasses.replace(self, prepare=prepare)


def classification(model: Model, label_smoothing: float = 0.0) -> Objective:
    """Softmax cross-entropy in nats of logits (B, K) for `image` (B, H, W, C), `label` (B,).

    With smoothing a the target is (1 - a) one_hot + a / K (Szegedy et al. 2016, "Rethinking the
    Inception architecture", section 7).
    """

    def score(logits: Float[Array, "B K"], batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        picked = jnp.take_along_axis(log_p, batch["label"][:, None], axis=-1)[:, 0]
        smoothed = (1 - label_smoothing) * picked + label_smoothing * jnp.mean(log_p, axis=-1)
        return -smoothed, {"error": jnp.argmax(logits, axis=-1) != batch["label"]}

    return Objective(model, lambda batch: (batch["image"],), score)


def regression(model: Model) -> Objective:
    """Squared error, mean over the outputs, of `x` (B, D) against `y` (B,) or (B, outputs)."""

    def score(outputs: Array, batch: Batch) -> tuple[Float[Array, " B"], Scalars]:
        error = outputs.astype(jnp.float32) - batch["y"].reshape(outputs.shape)
        return jnp.mean(jnp.square(error), axis=range(1, error.ndim)), {}

    return Objective(model, lambda batch: (batch["x"],), score)


def penalized(objective: Objective, *penalties: Penalty) -> Objective:
    """The objective with penalties of the params added, such as `l2(1e-4)`.

    A penalty's gradient passes through the optimizer. Under plain SGD `l2(r)` is the same as
    decoupled decay at rate r; Adam divides it by the gradient's running size, so that weights
    with large gradients are decayed less. Decoupled decay (`optimizers.weight_decay`) shrinks all
    weights alike (Loshchilov and Hutter 2019, "Decoupled weight decay regularization").
    """
    return dataclasses.replace(objective, penalties=objective.penalties + penalties)


def l2(scale: float, mask: Mask = tree.weights) -> Penalty:
    """`scale / 2 * sum(w**2)`: its gradient is `scale * w`, as torch's SGD `weight_decay`."""
    return lambda params: 0.5 * scale * _sum(jnp.square, params, mask)


def l1(scale: float, mask: Mask = tree.weights) -> Penalty:
    """`scale * sum(|w|)`."""
    return lambda params: scale * _sum(jnp.abs, params, mask)


def _sum(fn: Callable[[Array], Array], params: Params, mask: Mask) -> Array:
    terms = jax.tree.map(
        lambda leaf, keep: jnp.sum(fn(leaf.astype(jnp.float32))) if keep else jnp.float32(0),
        params,
        mask(params),
    )
    return jax.tree.reduce(jnp.add, terms, jnp.float32(0))
