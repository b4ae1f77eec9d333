"""GRU with additive attention in each of its steps, with custom gradients of its kernels.

Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate",
appendix A.1.2. Only what needs the last state is left to the loop. The context vector enters the
gates as weights @ (values @ kernel), so that the values (B, S, 2 D) are projected once, not in each
step; and, as in `kernels.rnn_scan`, the gradients of the kernels and of the projected values are
single products after the loop. No forward mode.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from jaxmodels.typing import Array


class Source(NamedTuple):
    """The encoded source that is attended to.

    Attributes:
        keys: the source's side of the energies, with their bias.
        gates: the source's values, projected onto the gates r, z, n.
        mask: which steps of the source count.
        scale: v of v . tanh(query + keys).
    """

    keys: Float[Array, "B S D"]
    gates: Float[Array, "B S G"]
    mask: Bool[Array, "B S"]
    scale: Float[Array, " D"]


def attentive_gru(
    x: Float[Array, "T B G"],
    kernel: Float[Array, "D G"],
    bias: Float[Array, " G"],
    query: Float[Array, "D D"],
    state: Float[Array, "B D"],
    source: Source,
) -> tuple[Float[Array, "T B D"], Float[Array, "T B S"]]:
    """Outputs and attention weights of steps whose own inputs are projected to the gates r, z, n.

    The equations are those of `layers.cells.GRU`, with the context's share added to x. Everything
    is computed in the type that all arguments promote to, the attention weights in float32 at
    least.
    """
    keys, gates, mask, scale = source
    dtype = jnp.result_type(x, kernel, bias, query, state, keys, gates, scale)
    x, kernel, bias, query, state = (a.astype(dtype) for a in (x, kernel, bias, query, state))
    source = Source(keys.astype(dtype), gates.astype(dtype), mask, scale.astype(dtype))
    D = len(kernel)
    # The product with [kernel | query] is added to the first four blocks: r, z, recurrent n, query.
    recurrent = jnp.pad(x[..., : 2 * D], ((0, 0), (0, 0), (0, D))) + bias[None, None]
    query_inputs = jnp.zeros((*x.shape[:2], D), dtype)
    stream = jnp.concatenate([recurrent, query_inputs, x[..., 2 * D :]], axis=-1)
    return _attentive_scan(stream, jnp.concatenate([kernel, query], axis=1), state, source)


def _plain(stream: Array, kernel: Array, state: Array, source: Source) -> tuple[Array, Array]:
    columns = kernel.shape[1]

    def step(h: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
        r, z, recurrent, query = jnp.split(x[:, :columns] + h @ kernel, 4, axis=-1)
        weights = _attend(query, source)
        context = jnp.einsum("bs,bsg->bg", weights.astype(x.dtype), source.gates)
        context_r, context_z, context_n = jnp.split(context, 3, axis=-1)
        n = jnp.tanh(x[:, columns:] + context_n + jax.nn.sigmoid(r + context_r) * recurrent)
        z = jax.nn.sigmoid(z + context_z)
        h = (1 - z) * n + z * h
        return h, (h, weights)

    return lax.scan(step, state, stream)[1]


def _attend(query: Array, source: Source) -> Float[Array, "B S"]:
    energy = jnp.tanh(query[:, None] + source.keys) @ source.scale
    energy = energy.astype(jnp.promote_types(energy.dtype, jnp.float32))
    # Not -inf: a row without any source would make NaN.
    energy = jnp.where(source.mask, energy, -1e9)
    return jax.nn.softmax(energy, axis=-1)


def _forward(
    stream: Array, kernel: Array, state: Array, source: Source
) -> tuple[tuple[Array, Array], Any]:
    def with_fixed_kernels(
        stream: Array, state: Array, keys: Array, scale: Array
    ) -> tuple[Array, Array]:
        return _plain(stream, kernel, state, source._replace(keys=keys, scale=scale))

    outputs, pullback = jax.vjp(with_fixed_kernels, stream, state, source.keys, source.scale)
    h = jnp.concatenate([state[None], outputs[0][:-1]])
    return outputs, (pullback, h, outputs[1])


def _backward(residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    pullback, h, weights = residuals
    d_stream, d_state, d_keys, d_scale = pullback(cotangents)
    D = h.shape[-1]
    d_kernel = h.reshape(-1, D).T @ d_stream[..., : 4 * D].reshape(-1, 4 * D)
    d_context = jnp.concatenate([d_stream[..., : 2 * D], d_stream[..., 4 * D :]], axis=-1)
    d_gates = jnp.einsum("tbs,tbg->bsg", weights.astype(d_context.dtype), d_context)
    return d_stream, d_kernel, d_state, Source(d_keys, d_gates, None, d_scale)  # type: ignore


_attentive_scan = jax.custom_vjp(_plain)
_attentive_scan.defvjp(_forward, _backward)
