"""Dot-product attention: the kernel for each backend, and the weights by themselves."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from jaxmodels.kernels.blockwise_attention import blockwise_attention, supports_blockwise
from jaxmodels.typing import Array


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 _ S"] | None = None,
    bias: Float[Array, "B N T S"] | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(scale q k + bias) v, over the keys that mask, order and window let through.

    `jax.nn.dot_product_attention`, by cuDNN's fused kernel where that is possible; on CPUs
    `blockwise_attention` where that is. The scale is 1 / sqrt(H) if absent. Keys and values may
    have fewer heads, each shared by N / K queries. A query without any key gets the mean of all
    values.
    """
    if window is None and supports_blockwise(q, k, mask, bias, causal):
        return blockwise_attention(q, k, v, scale)
    sides = None if window is None else (window - 1, 0 if causal else window - 1)
    return jax.nn.dot_product_attention(
        *(q, k, v, bias, mask),
        scale=scale,
        is_causal=causal,
        local_window_size=sides,
        implementation="cudnn" if supports_cudnn(q, k, mask, bias, window) else "xla",
    )


def attention_weights(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 _ S"] | None = None,
    bias: Float[Array, "B N T S"] | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "B N T S"]:
    """The weights by which `attend` takes the mean of the values, in float32 (or longer)."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = factor * jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=wide)
    scores = scores if bias is None else scores + bias
    if causal or window is not None:
        queries, keys = (jnp.arange(x.shape[1])[None] for x in (q, k))
        ordered = position_mask(queries, keys, causal, window)
        mask = ordered if mask is None else mask & ordered
    # Not -inf, as in `jax.nn.dot_product_attention`: a row without any key would be NaN.
    lowest = -0.7 * float(jnp.finfo(jnp.float32).max)
    return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, lowest))


def position_mask(
    queries: Integer[Array, "B T"],
    keys: Integer[Array, "B S"],
    causal: bool = True,
    window: int | None = None,
) -> Bool[Array, "B 1 T S"]:
    """Which keys a query may attend to, by their positions."""
    distance = queries[:, None, :, None] - keys[:, None, None, :]
    reach = jnp.iinfo(jnp.int32).max if window is None else window
    return (distance >= 0 if causal else distance > -reach) & (distance < reach)


def supports_cudnn(
    q: Array, k: Array, mask: Array | None, bias: Array | None, window: int | None
) -> bool:
    """Whether cuDNN's fused kernel, which never holds the scores, computes this here.

    jax uses it only on request, and then raises for what the kernel does not take. These are the
    cases that it takes on every NVIDIA GPU from the A100 on: 16 bits, heads of 64 or 128, whole
    tiles, no mask but the causal one, sequences that no mesh splits. A program that is compiled for
    other devices than this machine's does not use it.
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
