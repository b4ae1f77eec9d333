"""The objective: a model, the batch fields that it reads, and how its outputs are scored."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels import typing
from jaxmodels.adapters import check_takes_train, map_model
from jaxmodels.terms import Aux, Term, check_terms, reported_means, sum_terms, total_loss
from jaxmodels.typing import Array, Batch, Collections, Key, Model, Params, batch_fields

Penalty = Callable[[Params], Array]
Prepare = Callable[[Key, Batch], Batch]

SOWN_LOSSES = "losses"
"""The collection whose sown values (`self.sow("losses", name, value)`) are added to the loss."""


def model_rngs(key: Key) -> dict[str, Key]:
    """The random streams of a model: `dropout`, and `sample` for drawn latents."""
    return {"dropout": key, "sample": jax.random.fold_in(key, 1)}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss made of named terms, of a model's outputs and a batch.

    Calling it returns `(loss, Aux)`. Losses that the model sows in the collection "losses" are one
    more term, `sown`. `typing.Objective` says what else goes in its place.

    Attributes:
        model: computes outputs from the fields `inputs`.
        inputs: names of batch fields, the model's arguments; "segments?" may be absent.
        score: `(outputs, batch) -> terms by name`; see `terms.Term`.
        penalties: of the params, added to the loss.
        prepare: changes each batch first, under `jit`, after the data's own preprocessing.
        coupled: why a row's loss depends on other rows (in-batch negatives), where it does: such a
            batch cannot be split into parts, and `grads.accumulate` and `per_device` refuse it.
    """

    model: Model
    inputs: tuple[str, ...]
    score: Callable[[Any, Batch], Mapping[str, Term]]
    penalties: tuple[Penalty, ...] = ()
    prepare: Prepare | None = None
    coupled: str = ""

    def init(self, key: Key, batch: Batch) -> tuple[Params, Collections]:
        """Make params and other collections, those that only training uses among them."""
        params_key, model_key, prepare_key = jax.random.split(key, 3)
        inputs = batch_fields(self._prepared(prepare_key, batch), self.inputs)
        rngs = model_rngs(model_key)
        check_takes_train(self.model)
        variables = self.model.init({"params": params_key, **rngs}, *inputs, train=True)
        collections = {k: v for k, v in variables.items() if k != "params"}
        if collections:
            collections = self._without_sown(variables, collections, inputs, rngs)
        return variables["params"], collections

    def __call__(
        self, params: Params, collections: Collections, batch: Batch, key: Key, step: Any = 0
    ) -> tuple[Array, Aux]:
        """Compute the loss of a batch in training mode."""
        if self.prepare is not None:
            prepare_key, key = jax.random.split(key)
            batch = self.prepare(prepare_key, batch)
        outputs, changed = self.model.apply(
            {"params": params, **collections},
            *batch_fields(batch, self.inputs),
            train=True,
            rngs=model_rngs(key),
            mutable=[*collections, SOWN_LOSSES],
        )
        terms = self.score(outputs, batch)
        check_terms(terms)
        terms = dict(terms)
        changed = dict(changed)
        if sown := jax.tree.leaves(changed.pop(SOWN_LOSSES, {})):
            terms["sown"] = Term(sum((jnp.sum(x) for x in sown), jnp.float32(0)))
        if self.penalties:
            terms["penalty"] = Term(sum((p(params) for p in self.penalties), jnp.float32(0)))
        sums = sum_terms(terms, step)
        return total_loss(sums), Aux({**collections, **changed}, sums, reported_means(terms, sums))

    def after(self, prepare: Prepare) -> "Prepared":
        """The objective of batches as they are stored, which `prepare` is applied to first."""
        return Prepared(self, prepare)

    def _prepared(self, key: Key, batch: Batch) -> Batch:
        return batch if self.prepare is None else self.prepare(key, batch)

    def _without_sown(
        self, variables: Any, collections: Collections, inputs: Any, rngs: dict[str, Key]
    ) -> Collections:
        """The collections that a call leaves in the same shape: what is sown grows instead."""

        def call(variables: Any) -> Any:
            return self.model.apply(variables, *inputs, train=True, rngs=rngs, mutable=True)[1]

        def shapes(tree: Any) -> Any:
            return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

        after = jax.eval_shape(call, variables)
        return {
            name: value
            for name, value in collections.items()
            if name != SOWN_LOSSES and shapes(after.get(name)) == shapes(value)
        }


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Any objective, of batches that `prepare(key, batch)` is applied to first."""

    objective: typing.Objective
    prepare: Prepare

    def init(self, key: Key, batch: Batch) -> tuple[Params, Collections]:
        """Make the variables for batches like this one, once prepared."""
        return self.objective.init(key, self.prepare(jax.random.split(key, 3)[2], batch))

    def __call__(
        self, params: Params, collections: Collections, batch: Batch, key: Key, step: Any = 0
    ) -> tuple[Array, Any]:
        """The loss of a batch as it is stored."""
        prepare_key, key = jax.random.split(key)
        return self.objective(params, collections, self.prepare(prepare_key, batch), key, step)

    def after(self, prepare: Prepare) -> "Prepared":
        """The objective with one more preparation, before this one."""
        return Prepared(self, prepare)

    def map_model(self, fn: Callable[[Model], Model]) -> "Prepared":
        """The same with `fn` applied to the innermost model."""
        return dataclasses.replace(self, objective=map_model(self.objective, fn))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "objective":
            raise AttributeError(name)
        return getattr(self.objective, name)
