"""Encoder-decoder Transformers (Vaswani et al. 2017, "Attention is all you need")."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxmodels.layers.attention import (
    CrossAttention,
    KeysValues,
    SelfAttention,
)
from jaxmodels.layers.blocks import (
    BLOCK_DIMS,
    Block,
    Make,
    Residual,
    Stack,
    layer_norm,
    post_norm,
    pre_norm,
)
from jaxmodels.layers.dense import Dense, project
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.feedforward import FeedForward
from jaxmodels.layers.positions import LearnedPositions, Positions, SinusoidalPositions
from jaxmodels.layers.shapes import check_length, check_sizes
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import Array

MEMORY_DIMS = {"(cross/query|memory/project)/": -2, "cross/out/kernel": -3}


class EncoderDecoder(nn.Module):
    """A translator (Vaswani et al. 2017, "Attention is all you need").

    Attributes:
        source_vocab: of the source; absent where both languages share one vocabulary and the
            embeddings are the same.
        vocab_size: V, of the target.
        context: the longest sentence.
        width: D.
        depth: blocks of the encoder, and of the decoder.
        num_heads: N.
        encoder_block: makes a block of the encoder; takes a `name`.
        decoder_block: makes a block of the decoder; takes a `name`.
        positions: makes what is added to the embeddings, of (context, width).
        dropout: of the embeddings.
        tied: whether the embedding is also the output layer's kernel; if not, it has a bias too.
        stddev: of the embeddings at first; they are multiplied by sqrt(D) (section 3.4).
        norm: of what each stack returns, which blocks that begin with theirs need; takes a `name`.
        remat: see `Stack`.
        unroll: see `Stack`.
    """

    source_vocab: int | None
    vocab_size: int
    context: int
    width: int
    depth: int
    num_heads: int
    encoder_block: Make
    decoder_block: Make
    positions: Callable[[int, int], nn.Module] = SinusoidalPositions
    dropout: float = 0.1
    tied: bool = True
    stddev: float | None = None
    norm: Make | None = None
    remat: Callable[..., Any] | None = None
    unroll: int = 1

    def setup(self) -> None:
        """Make the parts."""
        normal = nn.initializers.normal(self.stddev or self.width**-0.5)
        embed = functools.partial(nn.Embed, features=self.width, embedding_init=normal)
        self.target_embedding = embed(self.vocab_size)
        if self.source_vocab is not None:
            self.source_embedding = embed(self.source_vocab)
        self.source_place = self.positions(self.context, self.width)
        self.target_place = self.positions(self.context, self.width)
        self.count = Positions()
        self.drop = Dropout(self.dropout)
        self.encoder = Stack(self.encoder_block, self.depth, self.remat, self.unroll)
        self.decoder = Stack(self.decoder_block, self.depth, self.remat, self.unroll)
        self.memory = KeysValues(self.depth, self.num_heads)
        if self.norm is not None:
            self.encoder_norm, self.decoder_norm = self.norm(), self.norm()
        if not self.tied:
            init = nn.initializers.xavier_uniform()
            self.output = Dense(self.vocab_size, kernel_init=init)

    def __call__(
        self, source: Int[Array, "B S"], target: Int[Array, "B T"], train: bool = False
    ) -> Float[Array, "B T V"]:
        """Compute the logits of what follows each target token."""
        return self.decode(target, self.encode(source, train), train)

    def encode(
        self, source: Int[Array, "B S"], train: bool = False
    ) -> tuple[Float[Array, "B depth 2 S N H"], Bool[Array, "B 1 1 S"]]:
        """Compute keys and values of the source for each block of the decoder, and the mask."""
        check_length(source, self.context)
        embedding = self.target_embedding if self.source_vocab is None else self.source_embedding
        mask = (source != PAD)[:, None, None, :]
        positions = self.count(source)
        x = self._embedded(embedding, self.source_place, source, positions, train)
        x = self.encoder(x, train=train, positions=positions, mask=mask)
        return self.memory(x if self.norm is None else self.encoder_norm(x)), mask

    def decode(
        self,
        target: Int[Array, "B T"],
        memory: tuple[Float[Array, "B depth 2 S N H"], Bool[Array, "B 1 1 S"]],
        train: bool = False,
        carry: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute the logits of what follows each target token, given `encode`'s memory.

        `carry` is that of `GPT`.
        """
        check_length(target, self.context)
        positions = self.count(target, carry)
        x = self._embedded(self.target_embedding, self.target_place, target, positions, train)
        keys_values, mask = memory
        x = self.decoder(
            x, keys_values, train, carry, positions=positions, mask=None, memory_mask=mask
        )
        x = x if self.norm is None else self.decoder_norm(x)
        if self.tied:
            return project(x, self.target_embedding.embedding)
        return self.output(x).astype(jnp.float32)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: heads, hidden features, vocabularies."""
        vocabularies = {"target_embedding/|source_embedding/": -2}
        output = {} if self.tied else {"output/": -1}
        return {**BLOCK_DIMS, **MEMORY_DIMS, **vocabularies, **output}

    def _embedded(
        self, embedding: nn.Embed, place: nn.Module, tokens: Array, positions: Array, train: bool
    ) -> Float[Array, "B T D"]:
        x = embedding(tokens) * jnp.asarray(self.width**0.5, embedding.embedding.dtype)
        x = x + place(positions).astype(x.dtype)
        return self.drop(x, train)


def cross_attention(
    model: EncoderDecoder, variables: Any, source: Int[Array, "B S"], target: Int[Array, "B T"]
) -> Float[Array, "B N T S"]:
    """What each head of the decoder's last block looks at in the source."""
    found: Any = model.apply(variables, source, target, mutable=["intermediates"])[1]
    return found["intermediates"]["decoder"]["layers"]["block"]["cross"]["weights"][0][-1]


def transformer(
    source_vocab: int | None,
    vocab_size: int,
    width: int,
    depth: int,
    num_heads: int,
    hidden: int,
    dropout: float = 0.1,
    context: int = 512,
    residual: Residual = post_norm,
    **options: Any,
) -> EncoderDecoder:
    """The blocks of Vaswani et al. 2017: post-norm, ReLU, whose features are dropped as well.

    The paper does not name that last dropout; the authors' code (tensor2tensor) has it. With
    `pre_norm` for `residual`, both stacks end with a norm (Xiong et al. 2020, "On layer
    normalization in the Transformer architecture").
    """
    check_sizes(width=width, depth=depth, num_heads=num_heads)
    parts = (
        functools.partial(FeedForward, hidden, dropout=dropout),
        layer_norm,
    )
    block = functools.partial(Block, residual=residual, dropout=dropout)
    encoder = functools.partial(block, functools.partial(SelfAttention, num_heads), *parts)
    decoder = functools.partial(
        block,
        functools.partial(SelfAttention, num_heads, causal=True),
        *parts,
        functools.partial(CrossAttention, num_heads),
    )
    sizes = source_vocab, vocab_size, context, width, depth, num_heads
    options = {"norm": layer_norm if residual is pre_norm else None, **options}
    return EncoderDecoder(*sizes, encoder, decoder, dropout=dropout, **options)


def transformer_base(vocab_size: int = 37_000, **options: Any) -> EncoderDecoder:
    """Vaswani et al. 2017, table 3: 6 + 6 layers of width 512, one vocabulary; 65 million there.

    63,082,496 parameters by the paper's own sizes, of which the vocabulary's share is rounded.
    """
    return transformer(None, vocab_size, 512, 6, 8, 2048, **options)


def transformer_big(vocab_size: int = 37_000, **options: Any) -> EncoderDecoder:
    """Table 3's big one: width 1024, 16 heads, dropout 0.3; 213 million there."""
    return transformer(None, vocab_size, 1024, 6, 16, 4096, 0.3, **options)


def transformer_multi30k(
    source_vocab: int,
    vocab_size: int,
    width: int = 256,
    depth: int = 3,
    num_heads: int = 8,
    hidden: int = 512,
    **options: Any,
) -> EncoderDecoder:
    """3 + 3 layers of width 256, learned positions, nothing shared.

    9,038,341 parameters for the vocabularies of 7,853 and 5,893 words of bentrevett's
    pytorch-seq2seq.
    """
    positions = functools.partial(LearnedPositions, stddev=width**-0.5)
    options = {"context": 100, "positions": positions, "tied": False, **options}
    return transformer(source_vocab, vocab_size, width, depth, num_heads, hidden, **options)
