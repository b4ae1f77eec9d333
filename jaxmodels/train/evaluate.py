"""Exact evaluation: every example once, on all devices of all hosts."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.adapters.state import fresh
from jaxmodels.sharding import (
    batch_sharding,
    batch_shards,
    local_rows,
    replicated,
    shard_batch,
    use_mesh,
)
from jaxmodels.typing import CARRY, Batch, Collections, Model, Params

Totals = dict[str, np.ndarray]

AHEAD = 2
"""Batches under way while one is fetched, so that the device never waits for the host."""


@runtime_checkable
class Evaluation(Protocol):
    """What `jaxmodels.metrics` makes; anything with these parts will do."""

    model: Model
    split: Any
    inputs: Callable[[Batch], tuple[Any, ...]]
    statistics: Callable[[Any, Batch], dict[str, Any]]
    summary: Callable[[Totals], dict[str, Any]]
    batch_size: int
    counted: Callable[[dict[str, Any]], Any]
    carried: bool


def evaluate(
    evaluation: Any, params: Params, collections: Collections, mesh: Mesh
) -> dict[str, Any]:
    """The evaluation's figures for these variables."""
    return evaluator(evaluation, mesh)(params, collections)


def evaluator(
    evaluation: Evaluation, mesh: Mesh
) -> Callable[[Params, Collections], dict[str, Any]]:
    """`evaluate` as a function that is compiled once and called many times."""

    size = _rounded(evaluation.batch_size, mesh)
    rows = local_rows(mesh, size)
    step = _compiled(evaluation, mesh)

    def parts(params: Params, collections: Collections) -> Iterator[Any]:
        used = {k: v for k, v in collections.items() if k != CARRY}
        for n, batch in enumerate(evaluation.split.padded(size, rows)):
            fed = shard_batch(batch, mesh)
            if n == 0 and evaluation.carried:
                used[CARRY] = _start(evaluation, fed, mesh)
            sums, carry = step(params, used, fed, n)
            used |= carry
            yield sums

    def run(params: Params, collections: Collections) -> dict[str, Any]:
        totals = [
            jax.tree.map(_widened, evaluation.counted(jax.device_get(sums)))
            for sums in _ahead(parts(params, collections))
        ]
        return evaluation.summary(jax.tree.map(lambda *xs: np.sum(xs, axis=0), *totals))

    return run


def _compiled(evaluation: Evaluation, mesh: Mesh) -> Callable[..., Any]:
    """`(params, collections, batch, n) -> (sums, carry)`, jitted."""
    key = jax.random.key(0)

    def statistics(
        params: Params, collections: Collections, batch: Batch, n: Any
    ) -> tuple[dict[str, Any], Collections]:
        batch = evaluation.split.preprocess(batch)
        with use_mesh(mesh):
            outputs, carry = evaluation.model.apply(
                {"params": params, **collections},
                *evaluation.inputs(batch),
                rngs={"sample": jax.random.fold_in(key, n)},
                mutable=[CARRY] if evaluation.carried else [],
            )
        return evaluation.statistics(outputs, batch), carry

    placed = replicated(mesh), batch_sharding(mesh)
    return jax.jit(statistics, out_shardings=placed)


def _start(evaluation: Evaluation, batch: Batch, mesh: Mesh) -> Any:
    """A carry of zeros for as many rows as the batch has."""

    def make() -> Any:
        inputs = evaluation.inputs(evaluation.split.preprocess(batch))
        return evaluation.model.init(jax.random.key(0), *inputs)

    return jax.device_put(fresh(make), batch_sharding(mesh))


def _ahead(parts: Iterator[Any]) -> Iterator[Any]:
    """The parts, `AHEAD` of them begun before the first is waited for, and no more in memory."""
    begun: deque[Any] = deque()
    for part in parts:
        begun.append(part)
        if len(begun) > AHEAD:
            yield begun.popleft()
    yield from begun


def _rounded(batch_size: int, mesh: Mesh) -> int:
    """The batch size, rounded up to what the mesh divides; the padding is masked."""
    shards = batch_shards(mesh)
    return -(-batch_size // shards) * shards


def _widened(total: Any) -> np.ndarray:
    total = np.asarray(total)
    return total.astype(np.int64 if np.issubdtype(total.dtype, np.integer) else np.float64)
