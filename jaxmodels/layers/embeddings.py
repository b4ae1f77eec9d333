"""Embeddings of tokens and their positions."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Integer

from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer, normal
from jaxmodels.layers.shapes import check_sizes
from jaxmodels.typing import Array

VOCABULARY_DIMS = {"/embedding/embedding": -2}
"""The dimension of a `TokenEmbedding` that `sharding.tensor` may split."""


class TokenEmbedding(nn.Module):
    """The vector of each token, plus that of its position, with dropout.

    Attributes:
        vocab_size: V.
        features: D.
        position_embedding: a module `positions (B, T) -> (B, T, D)`; None where the attention
            itself knows positions.
        dropout: the rate.
        scale: what the tokens' vectors are multiplied by.
        embedding_init: of the tokens' vectors.
    """

    vocab_size: int
    features: int
    position_embedding: nn.Module | None = None
    dropout: float = 0.0
    scale: float = 1.0
    embedding_init: Initializer = normal(0.02)

    def setup(self) -> None:
        check_sizes(vocab_size=self.vocab_size, features=self.features)
        self.embedding = self.param(
            "embedding", self.embedding_init, (self.vocab_size, self.features), jnp.float32
        )
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        tokens: Integer[Array, "B T"],
        positions: Integer[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """Embed; positions are 0 to T - 1 if absent. NaN for a token outside the vocabulary."""
        x = jnp.take(self.embedding, tokens, axis=0)
        if self.scale != 1:
            x = x * jnp.asarray(self.scale, x.dtype)
        if self.position_embedding is not None:
            if positions is None:
                positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
            x = x + self.position_embedding(positions).astype(x.dtype)
        return self.drop(x, train)
