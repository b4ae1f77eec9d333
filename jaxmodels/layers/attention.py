"""Multi-head attention: of a sequence to itself, and to a memory."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.kernels.attention import attend, attention_weights, position_mask
from jaxmodels.layers.context import NO_CONTEXT, Context
from jaxmodels.layers.dense import DenseGeneral
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer, per_part_init, xavier
from jaxmodels.layers.kv_cache import update_cache
from jaxmodels.layers.shapes import check_sizes
from jaxmodels.typing import Array

Attend = Callable[..., Array]
"""A kernel with the arguments and the result of `kernels.attention.attend`."""
Rotate = Callable[[Array, Array], Array]
Bias = Callable[[int, Array, Array], Array]


class SelfAttention(nn.Module):
    """Attention of a sequence to itself (Vaswani et al. 2017, "Attention is all you need").

    Attributes:
        num_heads: N.
        kv_heads: of keys and values, each shared by N / kv_heads queries (Ainslie et al. 2023,
            "GQA"); N if absent.
        head_size: H; D / N if absent.
        scale: of the scores; 1 / sqrt(H) if absent.
        dropout: the rate on the attention weights in training. Fused kernels have none, so that the
            weights are then held in memory.
        causal: whether a token attends only to itself and what came before.
        window: how many tokens back it attends to, itself among them (Beltagy et al. 2020,
            "Longformer"); all if absent. Not causal, as many ahead.
        rotate: rotates queries and keys by their positions, such as `positions.Rotary()`.
        bias: of heads and positions on the scores, such as `positions.alibi`.
        use_bias: of the projections.
        kernel_init: of queries, keys and values.
        out_init: of the output projection; `kernel_init` if absent.
        attend: the kernel.
    """

    label: ClassVar[str] = "attention"
    num_heads: int
    kv_heads: int | None = None
    head_size: int | None = None
    scale: float | None = None
    dropout: float = 0.0
    causal: bool = False
    window: int | None = None
    rotate: Rotate | None = None
    bias: Bias | None = None
    use_bias: bool = True
    kernel_init: Initializer = xavier
    out_init: Initializer | None = None
    attend: Attend = attend

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context = NO_CONTEXT, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Attend where the context's mask is true.

        With the context's `cache`, also to the tokens of the calls before; the outputs of tokens
        beyond the end of the cache are NaN.
        """
        positions, mask = context.positions, context.mask
        self._check(context)
        q, k, v = self._projected(x)
        if self.rotate is not None:
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        keys, causal, window = positions, self.causal, self.window
        if context.cache:
            keys, k, v = update_cache(self, positions, k, v)
            mask, causal, window = position_mask(positions, keys, causal, window), False, None
        bias = None if self.bias is None else self.bias(self.num_heads, positions, keys)
        y = mean_of_values(self, q, k, v, train, mask, bias, causal, window)
        if context.cache:
            y = jnp.where((positions < keys.shape[1])[..., None, None], y, jnp.nan)
        return output_projection(self, y, x.shape[-1])

    def _check(self, context: Context) -> None:
        if self.window is not None and self.window < 1:
            raise UserError(f"A window is of at least 1 token, its own; got {self.window}.")
        if context.positions is None and (self.rotate or self.bias or context.cache):
            raise UserError(
                "Rotary positions, a bias on the scores and a cache need the positions of the "
                "tokens: give `Context(positions=...)`, integers (B, T)."
            )
        if context.cache and (not self.causal or context.mask is not None):
            raise UserError("Only causal attention without a mask can use a cache.")

    def _projected(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries (B, T, N, H), keys and values (B, T, K, H)."""
        N, H = self.num_heads, head_size(x.shape[-1], self.num_heads, self.head_size)
        K = N if self.kv_heads is None else self.kv_heads
        if K < 1 or N % K:
            raise UserError(f"{N} heads cannot share keys and values in {K} equal groups.")
        dense = functools.partial(DenseGeneral, use_bias=self.use_bias)
        q = dense((N, H), kernel_init=self.kernel_init, name="query")(x)
        init = per_part_init(self.kernel_init, 2)
        both = dense((2, K, H), kernel_init=init, name="key_value")(x)
        return q, both[:, :, 0], both[:, :, 1]


class CrossAttention(nn.Module):
    """Attention of a sequence to the context's memory: keys and values that `KeysValues` makes.

    The attributes are those of `SelfAttention`.
    """

    label: ClassVar[str] = "cross"
    num_heads: int
    head_size: int | None = None
    scale: float | None = None
    dropout: float = 0.0
    use_bias: bool = True
    kernel_init: Initializer = xavier
    out_init: Initializer | None = None
    attend: Attend = attend

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Attend where the context's `memory_mask` is true."""
        if context.memory is None:
            raise UserError("Cross-attention needs keys and values: give `Context(memory=...)`.")
        heads = self.num_heads, head_size(x.shape[-1], self.num_heads, self.head_size)
        dense = functools.partial(DenseGeneral, use_bias=self.use_bias)
        q = dense(heads, kernel_init=self.kernel_init, name="query")(x)
        k, v = context.memory[:, 0], context.memory[:, 1]
        y = mean_of_values(self, q, k, v, train, context.memory_mask)
        return output_projection(self, y, x.shape[-1])


class KeysValues(nn.Module):
    """Keys and values of a memory for all `depth` layers of a decoder, in one product."""

    depth: int
    num_heads: int
    head_size: int | None = None
    use_bias: bool = True
    kernel_init: Initializer = xavier

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B depth 2 S N H"]:
        """Project."""
        check_sizes(depth=self.depth)
        H = head_size(x.shape[-1], self.num_heads, self.head_size)
        features = self.depth, 2, self.num_heads, H
        init = per_part_init(self.kernel_init, 2 * self.depth)
        y = DenseGeneral(features, use_bias=self.use_bias, kernel_init=init, name="project")(x)
        return jnp.moveaxis(y, 1, 3)  # B depth 2 S N H


def head_size(features: int, num_heads: int, size: int | None = None) -> int:
    """H of each head; `UserError` unless the features can be split evenly, or a size is given."""
    if num_heads < 1 or (size is None and features % num_heads):
        raise UserError(f"{features} features cannot be split into {num_heads} heads.")
    size = features // num_heads if size is None else size
    check_sizes(head_size=size)
    return size


def mean_of_values(
    module: SelfAttention | CrossAttention,
    q: Array,
    k: Array,
    v: Array,
    train: bool,
    *scores: Any,
) -> Float[Array, "B T N H"]:
    """Attend by the module's kernel; `scores` are mask, bias, causal and window.

    The weights (B, N, T, S) are sown as `weights` in "intermediates", if that is mutable. They are
    computed a second time: kernels do not return them.
    """
    names = "mask", "bias", "causal", "window"
    options = {**dict(zip(names, scores, strict=False)), "scale": module.scale}
    dropped = train and module.dropout != 0
    if dropped and module.attend is not attend:
        raise UserError(
            "Dropout of the attention weights works with the default `attend` only: other kernels "
            "do not have it. Set the attention's `dropout` to 0."
        )
    shown = module.is_mutable_collection("intermediates") and not module.is_initializing()
    if shown:
        module.sow("intermediates", "weights", attention_weights(q, k, **options))
    if not dropped:
        return module.attend(q, k, v, **options)
    weights = attention_weights(q, k, **options)
    weights = Dropout(module.dropout, name="weights_dropout")(weights, train).astype(v.dtype)
    v = jnp.repeat(v, q.shape[2] // v.shape[2], axis=2)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v)


def output_projection(
    module: SelfAttention | CrossAttention, y: Float[Array, "B T N H"], features: int
) -> Float[Array, "B T D"]:
    """From heads back to the features of the residual stream."""
    init = module.kernel_init if module.out_init is None else module.out_init
    return DenseGeneral(
        features, axis=(-2, -1), use_bias=module.use_bias, kernel_init=init, name="out"
    )(y)


def same_segment(segments: Integer[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Whether two tokens of a packed row belong to the same document."""
    return (segments[:, :, None] == segments[:, None, :])[:, None]
