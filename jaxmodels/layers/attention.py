"""Multi-head attention, through `jax.nn.dot_product_attention` but for one case on CPUs.

So a GPU gets its fused kernel. Dropout of the attention weights, which fused kernels lack, is left
out; blocks drop what attention returns.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxmodels.errors import UserError
from jaxmodels.kernels.blockwise_attention import blockwise_attention, supports_blockwise
from jaxmodels.layers.dense import DenseGeneral
from jaxmodels.layers.initializers import Initializer, per_part_init
from jaxmodels.typing import CARRY, Array

Rotate = Callable[[Array, Array], Array]
Bias = Callable[[int, Array, Array], Array]


class SelfAttention(nn.Module):
    """Attention of a sequence to itself (Vaswani et al. 2017, "Attention is all you need").

    Attributes:
        num_heads: N; a head has D / N features.
        kv_heads: of keys and values, each shared by N / kv_heads queries (Ainslie et al. 2023,
            "GQA"); N if absent.
        causal: whether a token sees only itself and what came before.
        window: how many tokens back it sees, itself among them (Beltagy et al. 2020,
            "Longformer"); all if absent. Not causal, as many ahead.
        rotate: turns queries and keys by their positions, such as `positions.rotary`.
        bias: of heads and positions on the scores, such as `positions.alibi`.
        use_bias: of the projections.
        kernel_init: of queries, keys and values.
        out_init: of the output projection; `kernel_init` if absent.
    """

    num_heads: int
    kv_heads: int | None = None
    causal: bool = False
    window: int | None = None
    rotate: Rotate | None = None
    bias: Bias | None = None
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 _ T"] | None = None,
        carry: bool = False,
    ) -> Float[Array, "B T D"]:
        """Attend where `mask` is true; with `carry`, also to the tokens of the calls before.

        What lies beyond the end of the cache gets NaN.
        """
        if self.window is not None and self.window < 1:
            raise UserError(f"A window is of at least 1 token, its own; got {self.window}.")
        q, k, v = self._projected(x)
        if self.rotate is not None:
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        keys, causal, window = positions, self.causal, self.window
        if carry:
            if not causal or mask is not None:
                raise UserError("only causal attention without a mask can be carried on")
            keys, k, v = self._remembered(positions, k, v)
            mask, causal, window = seen(positions, keys, causal, window), False, None
        bias = None if self.bias is None else self.bias(self.num_heads, positions, keys)
        sow_weights(self, q, k, mask, bias, causal, window)
        y = attend(q, k, v, mask, bias, causal, window)
        if carry:
            y = jnp.where((positions < keys.shape[1])[..., None, None], y, jnp.nan)
        return output_projection(self, y, x.shape[-1])

    def _projected(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries (B, T, N, H), keys and values (B, T, K, H)."""
        N, K = self.num_heads, self.kv_heads or self.num_heads
        H = head_size(x.shape[-1], N)
        if K < 1 or N % K:
            raise UserError(f"{N} heads cannot share keys and values in {K} equal groups.")
        dense = functools.partial(DenseGeneral, use_bias=self.use_bias)
        q = dense((N, H), kernel_init=self.kernel_init, name="query")(x)
        both = dense((2, K, H), kernel_init=per_part_init(self.kernel_init, 2), name="key_value")(x)
        return q, both[:, :, 0], both[:, :, 1]

    def _remembered(self, positions: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        """Positions, keys and values of the whole cache, these written where they belong.

        The cache is as long as the input was when the variables were made.
        """
        rows = []
        for name, new in (("k", k), ("v", v)):
            new = jnp.moveaxis(new, 1, -1)  # B K H T
            row = self.variable(CARRY, name, jnp.zeros, new.shape, new.dtype)
            if new.shape[-1] > row.value.shape[-1]:
                raise UserError(
                    f"{new.shape[-1]} tokens do not fit into a cache of {row.value.shape[-1]}. "
                    "Make it longer: it has the length of the input that `init` was given."
                )
            if not self.is_initializing():
                row.value = _written(row.value, new, positions[:, 0])
            rows.append(jnp.moveaxis(row.value, -1, 1).astype(new.dtype))
        S = rows[0].shape[1]
        where = jnp.broadcast_to(jnp.arange(S)[None], (len(positions), S))
        return where, *rows


class CrossAttention(nn.Module):
    """Attention of a sequence to keys and values that were computed before."""

    num_heads: int
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        k: Float[Array, "B S N H"],
        v: Float[Array, "B S N H"],
        mask: Bool[Array, "B 1 1 S"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Attend where `mask` is true."""
        heads = self.num_heads, head_size(x.shape[-1], self.num_heads)
        dense = functools.partial(DenseGeneral, use_bias=self.use_bias)
        q = dense(heads, kernel_init=self.kernel_init, name="query")(x)
        sow_weights(self, q, k, mask)
        return output_projection(self, attend(q, k, v, mask), x.shape[-1])


class KeysValues(nn.Module):
    """Keys and values of a memory for all `depth` layers of a decoder, in one product."""

    depth: int
    num_heads: int
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B depth 2 S N H"]:
        """Project."""
        features = self.depth, 2, self.num_heads, head_size(x.shape[-1], self.num_heads)
        init = per_part_init(self.kernel_init, 2 * self.depth)
        y = DenseGeneral(features, use_bias=self.use_bias, kernel_init=init, name="project")(x)
        return jnp.moveaxis(y, 1, 3)  # B depth 2 S N H


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 _ S"] | None = None,
    bias: Float[Array, "B N T S"] | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q k / sqrt(H) + bias) v over the keys that mask, order and window let through."""
    if window is None and supports_blockwise(q, k, mask, bias, causal):
        return blockwise_attention(q, k, v)
    return jax.nn.dot_product_attention(
        *(q, k, v, bias, mask),
        is_causal=causal,
        local_window_size=_window(window, causal),
        implementation="cudnn" if has_fused(q, k, mask, bias, window) else "xla",
    )


def has_fused(
    q: Array, k: Array, mask: Array | None, bias: Array | None, window: int | None
) -> bool:
    """Whether cuDNN's fused kernel, which never holds the scores, takes this on this machine.

    jax chooses it only when it is told to, and then raises for what the kernel does not take. Here
    stand the cases that it takes on every NVIDIA GPU from the A100 on: 16 bits, heads of 64 or 128,
    whole tiles, order as the only mask, rows that no mesh splits. Compiled for other devices than
    this machine's, a program has none.
    """
    device, mesh = jax.devices()[0], jax.sharding.get_abstract_mesh()
    target = mesh.abstract_device or device
    return (
        jax.default_backend() == "gpu"
        and "nvidia" in target.device_kind.lower()
        and float(device.compute_capability) >= 8
        and dict(mesh.shape).get("sequence", 1) == 1
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] in (64, 128)
        and not (q.shape[1] % 64 or k.shape[1] % 64)
        and mask is None
        and bias is None
        and window is None
    )


def head_size(features: int, num_heads: int) -> int:
    """How many of the features a head has; `UserError` if they cannot be split evenly."""
    if num_heads < 1 or features % num_heads:
        raise UserError(f"{features} features cannot be split into {num_heads} heads.")
    return features // num_heads


def seen(
    queries: Int[Array, "B T"],
    keys: Int[Array, "B S"],
    causal: bool = True,
    window: int | None = None,
) -> Bool[Array, "B 1 T S"]:
    """Which keys a query sees, by position."""
    distance = queries[:, None, :, None] - keys[:, None, None, :]
    reach = jnp.iinfo(jnp.int32).max if window is None else window
    return (distance >= 0 if causal else distance > -reach) & (distance < reach)


def same_segment(segments: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Whether two tokens of a packed row are of the same document."""
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The position of each token in its document, 0 for the first, of packed rows."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    new = segments != jnp.roll(segments, 1, axis=1)
    return index - jax.lax.cummax(jnp.where(new, index, 0), axis=1)


def sow_weights(
    module: nn.Module,
    q: Array,
    k: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool = False,
    window: int | None = None,
) -> None:
    """Leave the attention weights (B, N, T, S) in "intermediates", if they are asked for.

    The fused kernels return none, so they are computed beside.
    """
    if not module.is_mutable_collection("intermediates") or module.is_initializing():
        return
    k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k).astype(jnp.float32) / q.shape[-1] ** 0.5
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    if causal or window is not None:
        at = jnp.arange(k.shape[1])[None]
        scores = jnp.where(seen(at, at, causal, window), scores, -jnp.inf)
    module.sow("intermediates", "weights", jax.nn.softmax(scores))


def output_projection(module: SelfAttention | CrossAttention, y: Array, D: int) -> Array:
    """From heads (B, T, N, H) back to (B, T, D)."""
    return DenseGeneral(
        D,
        axis=(-2, -1),
        use_bias=module.use_bias,
        kernel_init=module.out_init or module.kernel_init,
        name="out",
    )(y)


def _window(window: int | None, causal: bool) -> tuple[int, int] | None:
    return None if window is None else (window - 1, 0 if causal else window - 1)


def _written(cache: Array, new: Array, at: Array) -> Array:
    """The cache (B, K, H, S) with (B, K, H, T) written from each row's own position on."""
    new = new.astype(cache.dtype)
    if new.shape[-1] == 1:  # a comparison, where slices at each row's own place are a scatter
        at = at[:, None, None, None]
        return jnp.where(jnp.arange(cache.shape[-1])[None, None, None] == at, new, cache)
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=-1)
    return jax.vmap(write)(cache, new, at)
