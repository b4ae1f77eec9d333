"""The objective: a model, what it reads of a batch, and how its outputs are scored."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxmodels.typing import Array, Batch, Collections, Key, Model, Params, Scalars

Penalty = Callable[[Params], Array]


class Aux(NamedTuple):
    """What an objective returns beside the loss.

    Attributes:
        collections: the model's, after the step.
        scalars: what else is reported.
        weight: of how many terms the loss is a mean: parts of a batch are put together by it.
    """

    collections: Collections
    scalars: Scalars
    weight: Array | float = 1.0


def as_stored(key: Key, batch: Batch) -> Batch:
    """The batch, unprepared."""
    del key
    return batch


def noise(key: Key) -> dict[str, Key]:
    """The model's sources of randomness: one for dropout, one for drawn samples (latents)."""
    return {"dropout": key, "sample": jax.random.fold_in(key, 1)}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A model, what it reads of a batch, and how its outputs are scored.

    Calling it returns `(loss, Aux)`. Anything else with this call and with `init` is an objective
    as well.

    Attributes:
        model: computes outputs from `inputs(batch)`.
        inputs: picks the model's arguments.
        score: of outputs and batch, the losses (B,) or (B, T), and what else is reported, of the
            same shape; the loss is their mean.
        penalties: of the params, added to the loss.
        prepare: applied to each batch first, under `jit`.
        valid: which losses count, of their shape; all if absent.
    """

    model: Model
    inputs: Callable[[Batch], tuple[Any, ...]]
    score: Callable[[Any, Batch], tuple[Float[Array, "B *T"], Scalars]]
    penalties: tuple[Penalty, ...] = ()
    prepare: Callable[[Key, Batch], Batch] = as_stored
    valid: Callable[[Batch], Bool[Array, "B *T"]] | None = None

    def init(self, key: Key, batch: Batch) -> tuple[Params, Collections]:
        """Make the model's params and other collections."""
        params_key, model_key, prepare_key = jax.random.split(key, 3)
        inputs = self.inputs(self.prepare(prepare_key, batch))
        variables = self.model.init({"params": params_key, **noise(model_key)}, *inputs)
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
            rngs=noise(model_key),
            mutable=list(collections),
        )
        losses, scalars = self.score(outputs, batch)
        valid = jnp.ones(losses.shape, bool) if self.valid is None else self.valid(batch)
        weight = jnp.sum(valid).astype(jnp.float32)
        loss, scalars = jax.tree.map(
            lambda x: jnp.sum(jnp.where(valid, x, 0)) / jnp.maximum(weight, 1), (losses, scalars)
        )
        if self.penalties:
            scalars["penalty"] = sum(
                (penalty(params) for penalty in self.penalties), jnp.float32(0)
            )
            loss = loss + scalars["penalty"]
        return loss, Aux(collections, scalars, weight)

    def after(self, prepare: Callable[[Key, Batch], Batch]) -> "Objective":
        """The same objective of batches that `prepare` has yet to be applied to."""
        return dataclasses.replace(self, prepare=prepare)
