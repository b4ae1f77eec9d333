"""Exact evaluation: every example once, on all devices of all hosts."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.sharding import batch_shards, feed, local_rows, replicated
from jaxmodels.typing import Batch, Collections, Model, Params

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


def evaluate(
    evaluation: Any, params: Params, collections: Collections, mesh: Mesh
) -> dict[str, Any]:
    """The evaluation's figures for these variables."""
    return evaluator(evaluation, mesh)(params, collections)


def evaluator(
    evaluation: Evaluation, mesh: Mesh
) -> Callable[[Params, Collections], dict[str, Any]]:
    """`evaluate` as a function that is compiled once and called many times."""

    def statistics(params: Params, collections: Collections, batch: Batch) -> dict[str, Any]:
        batch = evaluation.split.preprocess(batch)
        variables = {"params": params, **collections}
        outputs = evaluation.model.apply(variables, *evaluation.inputs(batch))
        return evaluation.statistics(outputs, batch)

    compiled = jax.jit(statistics, out_shardings=replicated(mesh))
    size = _rounded(evaluation.batch_size, mesh)
    rows = local_rows(mesh, size)

    def run(params: Params, collections: Collections) -> dict[str, Any]:
        parts = (
            compiled(params, collections, feed(batch, mesh))
            for batch in evaluation.split.padded(size, rows)
        )
        totals = [jax.tree.map(_widened, jax.device_get(part)) for part in _ahead(parts)]
        return evaluation.summary(jax.tree.map(lambda *xs: np.sum(xs, axis=0), *totals))

    return run


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


def _widened(total: np.ndarray) -> np.ndarray:
    return total.astype(np.int64 if np.issubdtype(total.dtype, np.integer) else np.float64)
