"""What the sublayers of a block see besides their input."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Positions, masks and memory, the same for every sublayer of a block; a pytree.

    A sublayer is any module that is called as `sublayer(x, context, train)`.

    Attributes:
        positions: (B, T) integers; None where no sublayer needs them.
        mask: (B, 1, 1 or T, T), true where a query may attend to a key; None for everywhere.
        memory: keys and values (B, 2, S, N, H) for this block's cross-attention. What a `Stack` is
            given has one more axis, (B, depth, 2, S, N, H).
        memory_mask: (B, 1, 1, S), true where the memory may be attended to.
        layer: the index of the block in its stack, a traced integer.
        cache: whether keys and values are read from and written to the collection `cache`.
    """

    positions: Any = None
    mask: Any = None
    memory: Any = None
    memory_mask: Any = None
    layer: Any = None
    cache: bool = dataclasses.field(default=False, metadata={"static": True})


NO_CONTEXT = Context()
