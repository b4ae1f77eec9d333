"""The Transformer's decoder: causal blocks that also attend to a memory."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Bool, Float, Integer

from jaxmodels.layers.attention import KeysValues
from jaxmodels.layers.blocks import BLOCK_DIMS, Stack
from jaxmodels.layers.context import Context
from jaxmodels.layers.dense import project
from jaxmodels.layers.embeddings import VOCABULARY_DIMS, TokenEmbedding
from jaxmodels.layers.positions import Positions
from jaxmodels.layers.shapes import check_length, check_sizes, check_tokens
from jaxmodels.typing import CACHE, Array

MEMORY_DIMS = {"(cross/query|memory/project)/": -2, "cross/out/kernel": -3}
"""The dimensions of `CrossAttention` and `KeysValues` that `sharding.tensor` may split: heads."""
KeysValuesMask = tuple[Float[Array, "B depth 2 S N H"], Bool[Array, "B 1 1 S"] | None]
"""Keys and values of a memory for each block, and where the memory may be attended to."""


class Decoder(nn.Module):
    """Causal blocks that also attend to a memory, such as an encoder's features.

    Attributes:
        embedding: of tokens and positions.
        stack: the blocks.
        memory: projects the memory to keys and values for each block.
        context: the longest sequence.
        final_norm: of the last block's output, for blocks that begin with their norm.
        output: a module from features to logits; if absent, the tokens' embedding is its kernel
            (Press and Wolf 2017, "Using the output embedding").
    """

    embedding: TokenEmbedding
    stack: Stack
    memory: KeysValues
    context: int
    final_norm: nn.Module | None = None
    output: nn.Module | None = None

    state_collection = CACHE

    def setup(self) -> None:
        check_sizes(context=self.context)
        self.positions = Positions()

    def __call__(
        self,
        tokens: Integer[Array, "B T"],
        memory: Float[Array, "B S D"],
        memory_mask: Bool[Array, "B 1 1 S"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute the logits of what follows each token, given features."""
        return self.decode(tokens, (self.keys_values(memory), memory_mask), train)

    def keys_values(self, memory: Float[Array, "B S D"]) -> Float[Array, "B depth 2 S N H"]:
        """Compute keys and values of a memory for each block."""
        return self.memory(memory)

    def decode(
        self,
        tokens: Integer[Array, "B T"],
        memory: KeysValuesMask,
        train: bool = False,
        cache: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute logits, given the memory's keys, values and mask.

        With `cache` the tokens follow those of the last call, as in `CausalLM`.
        """
        check_tokens(self, tokens)
        check_length(tokens, self.context)
        positions, (keys_values, mask) = self.positions(tokens, cache), memory
        x = self.embedding(tokens, positions, train)
        context = Context(positions, memory=keys_values, memory_mask=mask, cache=cache)
        x = self.stack(x, context, train)
        x = x if self.final_norm is None else self.final_norm(x)
        return project(x, self.embedding.embedding) if self.output is None else self.output(x)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.embedding.vocab_size

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: heads, hidden features, vocabulary."""
        output = {} if self.output is None else {"/output/": -1}
        return {**BLOCK_DIMS, **MEMORY_DIMS, **VOCABULARY_DIMS, **output}
