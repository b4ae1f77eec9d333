"""The Transformer's encoder: blocks that attend in both directions."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Bool, Float, Integer

from jaxmodels.layers.blocks import BLOCK_DIMS, Stack
from jaxmodels.layers.context import Context
from jaxmodels.layers.embeddings import VOCABULARY_DIMS, TokenEmbedding
from jaxmodels.typing import Array


class Encoder(nn.Module):
    """Blocks that see the whole sequence: the trunk of BERT and ViT, half of a translator.

    Attributes:
        stack: the blocks.
        embedding: a module `(inputs, positions, train) -> (B, T, D)`, such as `TokenEmbedding`; if
            absent, the inputs are embedded already.
        final_norm: of the last block's output, for blocks that begin with their norm.
    """

    stack: Stack
    embedding: nn.Module | None = None
    final_norm: nn.Module | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Any,
        mask: Bool[Array, "B 1 _ T"] | None = None,
        positions: Integer[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """Compute features; no token attends where `mask` is false."""
        x = inputs if self.embedding is None else self.embedding(inputs, positions, train)
        x = self.stack(x, Context(positions, mask), train)
        return x if self.final_norm is None else self.final_norm(x)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: heads, hidden features, vocabulary."""
        tokens = isinstance(self.embedding, TokenEmbedding)
        return {**BLOCK_DIMS, **(VOCABULARY_DIMS if tokens else {})}
