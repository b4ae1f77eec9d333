"""BatchNorm's statistics of params that were not trained themselves, such as an average.

Running statistics belong to the params that they were gathered with. An average of params (EMA,
Polyak) has others: Izmailov et al. 2018, "Averaging weights leads to wider optima and better
generalization", section 3.2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxmodels.sharding import prefetch_to_devices, use_mesh
from jaxmodels.typing import Batch, Collections, Objective, Params, TrainingData

BATCH_STATS = "batch_stats"
BATCHES = 50
"""Batches whose statistics are averaged; fewer where an epoch has fewer."""


def batch_stats_estimator(
    objective: Objective, batches: TrainingData, mesh: Mesh
) -> Callable[[Params, Collections], Collections]:
    """Make `(params, collections) -> collections` with the statistics that belong to the params.

    They are means over the first batches of `batches`, in training mode and in the order of seed 0:
    a function of the params alone. `objective` takes batches as they are stored.
    """
    batches = batches.reseed(0)
    one = jax.jit(lambda *args: _of_batch(objective, mesh, *args))
    count = max(1, min(BATCHES, len(batches.split) // batches.batch_size))

    def estimate(params: Params, collections: Collections) -> Collections:
        if BATCH_STATS not in collections:
            return collections
        total = None
        for n, batch in enumerate(prefetch_to_devices(batches, mesh, 0, count)):
            found = one(params, collections, batch, n)
            total = found if total is None else jax.tree.map(jnp.add, total, found)
        return {**collections, BATCH_STATS: jax.tree.map(lambda x: x / count, total)}

    return estimate


def _of_batch(
    objective: Objective,
    mesh: Mesh,
    params: Params,
    collections: Collections,
    batch: Batch,
    n: Any,
) -> Any:
    """The statistics of one batch, whatever the momentum m of each norm.

    An update is m * old + (1 - m) * new: from its results for an old of 0 and of 1 follow m and the
    new. The forward pass, which does not read the old, is computed once. What no update changes
    stays.
    """

    def updated(old: float) -> Any:
        stats = jax.tree.map(lambda x: jnp.full_like(x, old), collections[BATCH_STATS])
        with use_mesh(mesh):
            key = jax.random.fold_in(jax.random.key(0), n)
            _, aux = objective(params, {**collections, BATCH_STATS: stats}, batch, key)
        return aux.collections[BATCH_STATS]

    def solve(of_zero: Any, of_one: Any, kept: Any) -> Any:
        moved = 1 - (of_one - of_zero)
        return jnp.where(moved > 1e-6, of_zero / jnp.where(moved > 1e-6, moved, 1.0), kept)

    return jax.tree.map(solve, updated(0.0), updated(1.0), collections[BATCH_STATS])
