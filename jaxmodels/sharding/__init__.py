"""Where arrays live: meshes, placement rules, the feed from hosts to devices.

One device, several, several hosts: the same calls.
"""

from jaxmodels.sharding.feed import abstract_batch, feed, local_rows, stream
from jaxmodels.sharding.hosts import start
from jaxmodels.sharding.mesh import (
    batch_axes,
    batch_sharding,
    batch_shards,
    mesh,
    part_sharding,
    replicated,
    tracing,
)
from jaxmodels.sharding.rules import Rule, fsdp, match, place, replicate, tensor

__all__ = [
    "Rule",
    "abstract_batch",
    "batch_axes",
    "batch_sharding",
    "batch_shards",
    "feed",
    "fsdp",
    "local_rows",
    "match",
    "mesh",
    "part_sharding",
    "place",
    "replicate",
    "replicated",
    "start",
    "stream",
    "tensor",
    "tracing",
]
