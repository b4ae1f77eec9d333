"""The block that all Transformers are stacks of, and the stack."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Bool, Float, Int

from jaxmodels.layers.constraints import constrain_batch
from jaxmodels.layers.dropout import Dropout
from jaxmodels.typing import CARRY, Array

Make = Callable[..., nn.Module]
Sublayer = Callable[[Array], Array]
Residual = Callable[[Sublayer, Sublayer, Array], Array]

layer_norm = functools.partial(nn.LayerNorm, epsilon=1e-5)
"""LayerNorm with PyTorch's epsilon, which published weights were trained with."""
BLOCK_DIMS = {
    "attention/(query|key_value)/": -2,
    "attention/out/kernel": -3,
    "feedforward/(hidden|gate)/": -1,
    "feedforward/out/kernel": -2,
}
"""The dimensions of a block that may be split over devices: heads, and hidden features."""


def pre_norm(norm: Sublayer, sublayer: Sublayer, x: Array) -> Array:
    """x + sublayer(norm(x)) (Radford et al. 2019, GPT-2)."""
    return x + sublayer(norm(x))


def post_norm(norm: Sublayer, sublayer: Sublayer, x: Array) -> Array:
    """norm(x + sublayer(x)) (Vaswani et al. 2017)."""
    return norm(x + sublayer(x))


class Block(nn.Module):
    """Self-attention, attention to a memory if there is one, and a feed-forward layer.

    Attributes:
        attention: makes the self-attention; this and the next three take a `name`.
        feedforward: makes the feed-forward layer.
        norm: makes the norm of each sublayer.
        cross: makes the attention to the memory.
        residual: how norm, sublayer and input are put together.
        dropout: of what each sublayer returns.
    """

    attention: Make
    feedforward: Make
    norm: Make
    cross: Make | None = None
    residual: Residual = pre_norm
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B 2 S N H"] | None,
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 _ T"] | None = None,
        memory_mask: Bool[Array, "B 1 1 S"] | None = None,
        train: bool = False,
        carry: bool = False,
    ) -> Float[Array, "B T D"]:
        """Compute the block; `memory` holds keys and values."""
        drop = Dropout(self.dropout)

        def add(name: str, x: Array, sublayer: Sublayer) -> Array:
            return self.residual(
                self.norm(name=f"{name}_norm"), lambda y: drop(sublayer(y), train), x
            )

        attention = self.attention(name="attention")
        x = add("attention", x, lambda y: attention(y, positions, mask, carry=carry))
        if self.cross is not None and memory is not None:
            cross = self.cross(name="cross")
            x = add("cross", x, lambda y: cross(y, memory[:, 0], memory[:, 1], memory_mask))
        feedforward = self.feedforward(name="feedforward")
        return add("feedforward", x, lambda y: feedforward(y, train=train))


class Stack(nn.Module):
    """`depth` blocks, one after the other, as one scanned block: compiled once for any depth.

    Their params have a leading axis of `depth`.

    Attributes:
        block: makes a block; takes a `name`.
        depth: how many.
        remat: which intermediates are kept for the gradient, a policy of
            `jax.checkpoint_policies`; all if absent.
        unroll: blocks a turn of the loop: compiled so many times, with fewer copies.
    """

    block: Make
    depth: int
    remat: Callable[..., Any] | None = None
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B depth 2 S N H"] | None = None,
        train: bool = False,
        carry: bool = False,
        **context: Any,
    ) -> Float[Array, "B T D"]:
        """Run the blocks; `context` (positions, masks) goes to each of them."""
        layer = _Layer
        if self.remat is not None:
            # A scan's body needs no barrier against common subexpressions.
            layer = nn.remat(_Layer, policy=self.remat, prevent_cse=False)
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0, CARRY: 1, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(1, nn.broadcast),  # pyright: ignore[reportArgumentType] - a tuple is meant
            length=self.depth,
            unroll=self.unroll,
        )
        x, _ = scanned(self.block, train, carry, name="layers")(x, memory, context)
        return x


class _Layer(nn.Module):
    """A block with the signature of a scan's body."""

    block: Make
    train: bool
    carry: bool

    @nn.compact
    def __call__(self, x: Array, memory: Any, context: dict[str, Any]) -> tuple[Array, None]:
        block = self.block(name="block")
        return constrain_batch(
            block(constrain_batch(x), memory, train=self.train, carry=self.carry, **context)
        ), None
