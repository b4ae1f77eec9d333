"""BatchNorm statistics for averaged params (EMA, Polyak averaging).

Running statistics belong to the params that they were computed with. An average of params needs its
own: Izmailov et al. 2018, "Averaging weights leads to wider optima and better
generalization", section 3.2.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxmodels.sharding import prefetch_to_devices, use_mesh
from jaxmodels.train.dispatch import run_ahead
from jaxmodels.typing import Batch, Collections, Objective, Params, TrainingData

BATCH_STATS = "batch_stats"
BATCHES = 50
"""Number of batches whose statistics are averaged; fewer if an epoch is shorter."""


def batch_stats_estimator(
    objective: Objective, batches: TrainingData, mesh: Mesh
) -> Callable[[Params, Collections], Collections]:
    """Make `(params, collections) -> collections` that estimates the params' BatchNorm statistics.

    They are means over the first `BATCHES` batches in the order of seed 0, in training mode: a
    function of the params alone. `objective` takes raw batches.
    """
    batches = batches.reseed(0)
    one = jax.jit(lambda *args: _batch_statistics(objective, mesh, *args))
    count = max(1, min(BATCHES, len(batches.split) // batches.batch_size))

    def estimate(params: Params, collections: Collections) -> Collections:
        if BATCH_STATS not in collections:
            return collections
        fed = enumerate(prefetch_to_devices(batches, mesh, 0, count))
        found = run_ahead(one(params, collections, batch, n) for n, batch in fed)
        total = functools.reduce(lambda *trees: jax.tree.map(jnp.add, *trees), found)
        return {**collections, BATCH_STATS: jax.tree.map(lambda x: x / count, total)}

    return estimate


def _batch_statistics(
    objective: Objective,
    mesh: Mesh,
    params: Params,
    collections: Collections,
    batch: Batch,
    n: Any,
) -> Any:
    """The statistics of one batch, for any momentum m of each norm layer.

    An update is m * old + (1 - m) * new: at old = 0 its value is (1 - m) * new, its slope is m.
    Statistics that no update changes are kept.
    """

    def update(old: Any) -> Any:
        with use_mesh(mesh):
            key = jax.random.fold_in(jax.random.key(0), n)
            _, aux = objective(params, {**collections, BATCH_STATS: old}, batch, key)
        return aux.collections[BATCH_STATS]

    stats = collections[BATCH_STATS]
    zeros, ones = (jax.tree.map(lambda x, v=v: jnp.full_like(x, v), stats) for v in (0.0, 1.0))
    value, momentum = jax.jvp(update, (zeros,), (ones,))

    def solve(value: Any, m: Any, kept: Any) -> Any:
        return jnp.where(m < 1, value / jnp.where(m < 1, 1 - m, 1.0), kept)

    return jax.tree.map(solve, value, momentum, stats)
