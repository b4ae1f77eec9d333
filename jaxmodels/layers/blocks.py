"""A Transformer's block, which is a sequence of sublayers, and the scanned stack of blocks."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core.scope import DenyList
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.layers.constraints import constrain_batch
from jaxmodels.layers.context import NO_CONTEXT, Context
from jaxmodels.layers.dropout import Dropout
from jaxmodels.typing import CACHE, CARRY, Array

Layer = Callable[[Array], Array]
Residual = Callable[[Layer, Layer, Array], Array]
Policy = Callable[..., Any]

BLOCK_DIMS = {
    "attention/(query|key_value)/": -2,
    "attention/out/kernel": -3,
    "feedforward/(hidden|gate)/": -1,
    "feedforward/out/kernel": -2,
}
"""The dimensions of a block that `sharding.tensor` may split: heads, and hidden features."""


def layer_norm(use_bias: bool = True) -> nn.LayerNorm:
    """LayerNorm with PyTorch's epsilon, which published weights were trained with.

    One for each place: Flax shares the params of a module that is an attribute twice.
    """
    return nn.LayerNorm(epsilon=1e-5, use_bias=use_bias)


def pre_norm(norm: Layer, sublayer: Layer, x: Array) -> Array:
    """x + sublayer(norm(x)) (Radford et al. 2019, GPT-2)."""
    return x + sublayer(norm(x))


def post_norm(norm: Layer, sublayer: Layer, x: Array) -> Array:
    """norm(x + sublayer(x)) (Vaswani et al. 2017)."""
    return norm(x + sublayer(x))


class Block(nn.Module):
    """Sublayers one after the other, each with a norm, a residual connection and dropout.

    `Block((SelfAttention(8), FeedForward(2048)))` is BERT's block but for the order of the norm.
    The params of a sublayer and its norm are named after the class's `label`, such as `attention`
    and `attention_norm`.

    Attributes:
        sublayers: modules that are called as `sublayer(x, context, train)`.
        norm: the norm of each sublayer; each has params of its own.
        residual: how norm, sublayer and input are combined: `pre_norm`, `post_norm`.
        dropout: the rate on what each sublayer returns.
    """

    sublayers: tuple[nn.Module, ...]
    norm: nn.Module = dataclasses.field(default_factory=layer_norm)
    residual: Residual = pre_norm
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context = NO_CONTEXT, train: bool = False
    ) -> Float[Array, "B T D"]:
        drop = Dropout(self.dropout)
        for name, sublayer in zip(labels(self.sublayers), self.sublayers, strict=True):
            run, norm = sublayer.copy(name=name), self.norm.copy(name=f"{name}_norm")
            x = self.residual(norm, lambda y, run=run: drop(run(y, context, train), train), x)
        return x


class Stack(nn.Module):
    """`depth` blocks, one after the other, as a scan over groups of blocks.

    So any depth compiles as fast as one group. Params and all other collections have a leading axis
    of depth / len(blocks); in `cache` and `carry` it is the second, after the rows of the batch.

    Attributes:
        blocks: a group of blocks that is repeated; usually one, two where they alternate.
        depth: how many blocks in all.
        remat: which intermediates of a block are kept for the gradient, a policy of
            `jax.checkpoint_policies`; all if absent.
        unroll: groups a turn of the loop: compiled so many times, with fewer copies. Not with
            `remat`, which saves memory in a loop only.
    """

    blocks: tuple[nn.Module, ...]
    depth: int
    remat: Policy | None = None
    unroll: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context = NO_CONTEXT, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Run the blocks; each is given its index in the stack as `context.layer`."""
        turns = self._turns()
        memory = context.memory
        if memory is not None:
            if memory.shape[1] != self.depth:
                raise UserError(
                    f"The memory has keys and values for {memory.shape[1]} blocks; the stack is "
                    f"{self.depth} deep."
                )
            memory = memory.reshape(len(memory), turns, len(self.blocks), *memory.shape[2:])
        by_rows = CACHE, CARRY
        scanned = nn.scan(
            _Group,
            variable_axes={by_rows: 1, DenyList(by_rows): 0},
            split_rngs={True: True},
            in_axes=((0, 1), nn.broadcast),  # pyright: ignore[reportArgumentType] - a tree is meant
            length=turns,
            # A program without the loop would compute all blocks again before it needs the first:
            # XLA then saves no memory, whatever barriers there are.
            unroll=1 if self.remat is not None else self.unroll,
        )
        group = scanned(self.blocks, train, self.remat, turns, name="layers")
        context = dataclasses.replace(context, memory=None)
        return group(x, (jnp.arange(turns), memory), context)[0]

    def _turns(self) -> int:
        group = len(self.blocks)
        if group < 1 or self.depth < 1 or self.depth % group:
            raise UserError(
                f"A stack repeats a group of at least one block; its depth, which counts blocks, "
                f"is a multiple of that: got {group} blocks and a depth of {self.depth}."
            )
        if self.unroll < 1:
            raise UserError(f"unroll is at least 1; got {self.unroll}.")
        return self.depth // group


class _Group(nn.Module):
    """The body of a stack's scan."""

    blocks: tuple[nn.Module, ...]
    train: bool
    remat: Policy | None
    turns: int

    @nn.compact
    def __call__(self, x: Array, own: Any, context: Context) -> tuple[Array, None]:
        turn, memory = own

        def run(block: nn.Module, x: Array, context: Context) -> Array:
            return block(x, context, self.train)

        if self.remat is not None:
            # In a loop's body nothing of the forward pass could be joined with its repetition; a
            # loop of one turn is none once it is compiled.
            run = nn.remat(run, policy=self.remat, prevent_cse=self.turns == 1)
        for n, block in enumerate(self.blocks):
            here = dataclasses.replace(
                context,
                layer=turn * len(self.blocks) + n,
                memory=None if memory is None else memory[:, n],
            )
            name = "block" if len(self.blocks) == 1 else f"block_{n}"
            x = constrain_batch(run(block.copy(name=name), constrain_batch(x), here))
        return x, None


def labels(sublayers: Iterable[nn.Module]) -> list[str]:
    """A name for each: its class's `label`, or the class's own name; a second one gets `_2`."""
    names: list[str] = []
    for sublayer in sublayers:
        kind = type(sublayer)
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
        label = getattr(kind, "label", snake)
        seen = sum(re.fullmatch(rf"{label}(_\d+)?", name) is not None for name in names)
        names.append(f"{label}_{seen + 1}" if seen else label)
    return names
