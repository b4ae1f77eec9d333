"""Exact evaluation on a whole split: every example counts once, on all devices of all hosts."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxmodels.adapters.stateful import initial_carry
from jaxmodels.sharding import (
    batch_sharding,
    local_rows,
    padded_batch_size,
    replicated,
    shard_batch,
    use_mesh,
)
from jaxmodels.train.dispatch import run_ahead
from jaxmodels.typing import CARRY, Array, Batch, Collections, Evaluation, Params, batch_fields

Evaluator = Callable[[Params, Collections], dict[str, Any]]


def evaluate(
    evaluation: Evaluation, params: Params, collections: Collections, mesh: Mesh
) -> dict[str, Any]:
    """Compute the metrics of these variables by name."""
    return evaluator(evaluation, mesh)(params, collections)


def evaluator(evaluation: Evaluation, mesh: Mesh) -> Evaluator:
    """A function `(params, collections) -> metrics` that is compiled once, for repeated use."""
    size = padded_batch_size(mesh, evaluation.batch_size)  # padding is masked
    rows = local_rows(mesh, size)
    step = _compiled_step(evaluation, mesh, size)

    def steps(params: Params, collections: Collections) -> Iterator[Any]:
        used = {k: v for k, v in collections.items() if k != CARRY}
        for n, batch in enumerate(evaluation.split.padded(size, rows)):
            fed = shard_batch(batch, mesh)
            if n == 0 and evaluation.stateful:
                used[CARRY] = _initial_carry(evaluation, fed, mesh)
            statistics, mask, carry = step(params, used, fed, n)
            used |= carry
            yield statistics, mask

    def run(params: Params, collections: Collections) -> dict[str, Any]:
        reduction, total = evaluation.reduction, None
        for statistics, mask in run_ahead(steps(params, collections)):
            total = reduction.zero(statistics) if total is None else total
            total = reduction.update(total, statistics, mask)
        return dict(evaluation.summary(reduction.result(total)))

    return run


def _compiled_step(evaluation: Evaluation, mesh: Mesh, size: int) -> Callable[..., Any]:
    """`(params, collections, batch, n) -> (statistics, mask, carry)`, jitted."""

    def step(params: Params, collections: Collections, batch: Batch, n: Any) -> Any:
        mask = batch["mask"]
        batch = _prepare(evaluation, batch)
        variables = {"params": params, **collections}
        with use_mesh(mesh):
            if evaluation.per_example_keys:
                outputs, carry = _apply_per_example(evaluation, variables, batch, n * size), {}
            else:
                outputs, carry = evaluation.model.apply(
                    variables,
                    *batch_fields(batch, evaluation.inputs),
                    mutable=[CARRY] if evaluation.stateful else [],
                )
        return evaluation.statistics(outputs, {**batch, "mask": mask}), mask, carry

    placed = replicated(mesh), replicated(mesh), batch_sharding(mesh)
    return jax.jit(step, out_shardings=placed)


def _apply_per_example(evaluation: Evaluation, variables: Any, batch: Batch, first: Any) -> Any:
    """Apply the model to each example alone, with a PRNG key derived from its position."""
    inputs = batch_fields(batch, evaluation.inputs)

    def apply(position: Array, *inputs: Array) -> Any:
        key = jax.random.fold_in(jax.random.key(0), position)
        alone = (x[None] for x in inputs)
        return evaluation.model.apply(variables, *alone, rngs={"sample": key})

    positions = first + jnp.arange(len(inputs[0]))
    outputs = jax.vmap(apply)(positions, *inputs)
    return jax.tree.map(lambda x: x.squeeze(1), outputs)


def _prepare(evaluation: Evaluation, batch: Batch) -> Batch:
    batch = evaluation.split.preprocess(batch)
    return batch if evaluation.prepare is None else evaluation.prepare(batch)


def _initial_carry(evaluation: Evaluation, batch: Batch, mesh: Mesh) -> Any:
    """A zero carry for the rows of the batch."""

    def init() -> Any:
        inputs = batch_fields(_prepare(evaluation, batch), evaluation.inputs)
        return evaluation.model.init(jax.random.key(0), *inputs)

    return jax.device_put(initial_carry(init), batch_sharding(mesh))
