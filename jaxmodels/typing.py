"""The legend of axis letters, and the names that every part shares.

Axis letters, the same everywhere (shape annotations, einsums, comments):

    B batch   T time, tokens   S source time   D features   N heads   H head size, height
    W width   C channels       K classes       V vocabulary Z latent
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

Array = jax.Array
Key = jax.Array
"""A typed PRNG key, as made by `jax.random.key`."""
Batch = Mapping[str, Any]
"""Arrays by name; the first axis of each is B."""
Params = Any
Collections = Mapping[str, Any]
"""Variables that are not trained by gradients, such as `batch_stats`."""
CARRY = "carry"
"""The collection of recurrent state: unbounded, passed from call to call; leaves are (B, ...)."""
CACHE = "cache"
"""The collection of keys and values of incremental decoding: bounded; leaves are (B, ...)."""
Scalars = Mapping[str, Array]
BATCH_AXES = ("fsdp", "data")
"""The axes of a mesh that split the rows of a batch.

In this order: the other way round XLA's partitioner (jax 0.10 to 0.12) exchanges the rows between
devices for a kernel that is split over `tensor` and `fsdp`, does not bring them back, and so holds
outputs against other rows' targets. `tests/test_placement.py` would see it.
"""


@runtime_checkable
class Model(Protocol):
    """What the rest of the package asks of a network: Flax's two pure functions."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the variables: `{"params": ..., other collections}`."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; with `mutable`, a pair of outputs and new collections."""
        ...
