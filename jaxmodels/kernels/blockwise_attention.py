"""Blockwise causal attention for CPUs, which have no fused kernel: it skips masked blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmodels.typing import Array

BLOCK = 64
"""Queries in a block."""
MAX_BLOCKS = 16
"""The most blocks of a sequence: each is compiled by itself."""


def blockwise_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Causal softmax(scale q k) v, T a multiple of `BLOCK`; the scale is 1 / sqrt(H) if absent.

    A block of queries is multiplied with the keys up to its own end only. For 256 tokens that is
    five eighths of the products, of scores that stay in the cache: forward and backward in two
    fifths of the time of `jax.nn.dot_product_attention` (`scripts/README.md`).
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # B N T H
    ends = range(BLOCK, q.shape[2] + 1, BLOCK)
    blocks = [
        _block(q[:, :, end - BLOCK : end], k[:, :, :end], v[:, :, :end], factor) for end in ends
    ]
    return jnp.swapaxes(jnp.concatenate(blocks, axis=2), 1, 2)


def supports_blockwise(
    q: Array, k: Array, mask: Array | None, bias: Array | None, causal: bool
) -> bool:
    """Whether `blockwise_attention` computes this, and the program is for a CPU."""
    mesh = jax.sharding.get_abstract_mesh()
    target = mesh.abstract_device
    return (
        (target.platform if target else jax.default_backend()) == "cpu"
        and causal
        and q.shape == k.shape
        and 0 < q.shape[1] <= MAX_BLOCKS * BLOCK
        and q.shape[1] % BLOCK == 0
        and mask is None
        and bias is None
        and dict(mesh.shape).get("sequence", 1) == 1
    )


def _block(
    q: Float[Array, "B N t H"], k: Float[Array, "B N S H"], v: Float[Array, "B N S H"], scale: float
) -> Float[Array, "B N t H"]:
    t, S = q.shape[2], k.shape[2]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bnth,bnsh->bnts", q, k, preferred_element_type=wide)
    seen = np.arange(S - t, S)[:, None] >= np.arange(S)
    scores = jnp.where(seen[None, None], scores * scale, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(q.dtype)
    return jnp.einsum("bnts,bnsh->bnth", weights, v)
