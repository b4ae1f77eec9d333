"""Meshes, placement rules (data parallel, FSDP, tensor), batches on devices, multi-host start.

The same calls on one device, on several, and on several hosts.
"""

from jaxmodels.sharding.distributed import initialize_distributed
from jaxmodels.sharding.host_to_device import (
    abstract_batch,
    local_rows,
    padded_batch_size,
    prefetch_to_devices,
    shard_batch,
)
from jaxmodels.sharding.mesh import (
    SEQUENCE_FIELDS,
    batch_axes,
    batch_sharding,
    batch_shards,
    field_sharding,
    mesh,
    replicated,
    use_mesh,
)
from jaxmodels.sharding.rules import Rule, fsdp, match, replicate, sharding_tree, tensor

__all__ = [
    "SEQUENCE_FIELDS",
    "Rule",
    "abstract_batch",
    "batch_axes",
    "batch_sharding",
    "batch_shards",
    "field_sharding",
    "fsdp",
    "initialize_distributed",
    "local_rows",
    "match",
    "mesh",
    "padded_batch_size",
    "prefetch_to_devices",
    "replicate",
    "replicated",
    "shard_batch",
    "sharding_tree",
    "tensor",
    "use_mesh",
]
