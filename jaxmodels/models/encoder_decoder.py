"""Encoder-decoder Transformers (Vaswani et al. 2017, "Attention is all you need")."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Float, Integer

from jaxmodels.layers.attention import CrossAttention, KeysValues, SelfAttention
from jaxmodels.layers.blocks import (
    Block,
    Policy,
    Residual,
    Stack,
    layer_norm,
    post_norm,
    pre_norm,
)
from jaxmodels.layers.dense import OutputDense
from jaxmodels.layers.embeddings import TokenEmbedding
from jaxmodels.layers.feedforward import FeedForward
from jaxmodels.layers.initializers import normal, xavier
from jaxmodels.layers.positions import LearnedPositions, SinusoidalPositions
from jaxmodels.layers.shapes import check_length, check_sizes, check_tokens
from jaxmodels.models.decoder import Decoder, KeysValuesMask
from jaxmodels.models.encoder import Encoder
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import CACHE, Array, Model


class EncoderDecoder(nn.Module):
    """A translator: a decoder whose memory is what the encoder makes of the source.

    Attributes:
        encoder: of the source; without an embedding it uses the decoder's, where both languages
            share one vocabulary.
        decoder: of the target.
    """

    encoder: Encoder
    decoder: Decoder

    state_collection = CACHE

    def __call__(
        self, source: Integer[Array, "B S"], target: Integer[Array, "B T"], train: bool = False
    ) -> Float[Array, "B T V"]:
        """Compute the logits of what follows each target token."""
        return self.decode(target, self.encode(source, train), train)

    def encode(self, source: Integer[Array, "B S"], train: bool = False) -> KeysValuesMask:
        """Compute keys and values of the source for each block of the decoder, and the mask.

        Padding is not attended to.
        """
        check_tokens(self, source)
        check_length(source, self.context)
        mask = (source != PAD)[:, None, None, :]
        shared = self.encoder.embedding is None
        inputs = self.decoder.embedding(source, train=train) if shared else source
        return self.decoder.keys_values(self.encoder(inputs, mask, train=train)), mask

    def decode(
        self,
        target: Integer[Array, "B T"],
        memory: KeysValuesMask,
        train: bool = False,
        cache: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute the logits of what follows each target token, given `encode`'s memory."""
        return self.decoder.decode(target, memory, train, cache)

    @property
    def context(self) -> int:
        """The longest sentence."""
        return self.decoder.context

    @property
    def vocab_size(self) -> int:
        """V, of the target."""
        return self.decoder.vocab_size

    @property
    def source_vocab(self) -> int:
        """V of the source."""
        embedding: Any = self.encoder.embedding
        return self.vocab_size if embedding is None else embedding.vocab_size

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: heads, hidden features, vocabularies."""
        return {**self.encoder.tensor_dims, **self.decoder.tensor_dims}


def cross_attention(
    model: Model,
    variables: Any,
    source: Integer[Array, "B S"],
    target: Integer[Array, "B T"],
) -> Float[Array, "B N T S"]:
    """The weights by which each head of the decoder's last block attends to the source."""
    sown: Any = model.apply(variables, source, target, mutable=["intermediates"])[1]
    layers = sown["intermediates"]["decoder"]["stack"]["layers"]
    return layers["block"]["cross"]["weights"][0][-1]


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
    *,
    position_embedding: nn.Module | None = None,
    output: nn.Module | None = None,
    stddev: float | None = None,
    remat: Policy | None = None,
    unroll: int = 1,
) -> EncoderDecoder:
    """The encoder-decoder of Vaswani et al. 2017: post-norm, ReLU, dropout of hidden features too.

    The paper does not name that last dropout; the authors' code (tensor2tensor) has it. With
    `pre_norm`, both stacks end with a norm (Xiong et al. 2020, "On layer normalization in the
    Transformer architecture"). `depth` blocks of `width` D on each side. `source_vocab` is None
    where both languages share one vocabulary and its embedding; embeddings start with `stddev`
    (1 / sqrt(D) if absent), and are multiplied by sqrt(D) (section 3.4). `output` computes logits;
    the target's embedding does if absent.
    """
    check_sizes(width=width, depth=depth, num_heads=num_heads)
    positions = SinusoidalPositions(width) if position_embedding is None else position_embedding
    init = normal(width**-0.5 if stddev is None else stddev)

    def embedding(vocabulary: int) -> TokenEmbedding:
        return TokenEmbedding(vocabulary, width, positions.clone(), dropout, width**0.5, init)

    def stack(*attention: nn.Module) -> Stack:
        feedforward = FeedForward(hidden, dropout=dropout)
        block = Block((*attention, feedforward), residual=residual, dropout=dropout)
        return Stack((block,), depth, remat, unroll)

    final_norm = layer_norm if residual is pre_norm else lambda: None
    own = None if source_vocab is None else embedding(source_vocab)
    decoder = stack(SelfAttention(num_heads, causal=True), CrossAttention(num_heads))
    memory = KeysValues(depth, num_heads)
    return EncoderDecoder(
        Encoder(stack(SelfAttention(num_heads)), own, final_norm()),
        Decoder(embedding(vocab_size), decoder, memory, context, final_norm(), output),
    )


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
    context: int = 100,
    **options: Any,
) -> EncoderDecoder:
    """3 + 3 layers of width 256, learned positions, nothing shared.

    9,038,341 parameters for the vocabularies of 7,853 and 5,893 words of bentrevett's
    pytorch-seq2seq.
    """
    sizes = source_vocab, vocab_size, width, depth, num_heads, hidden
    positions = LearnedPositions(context, width, normal(width**-0.5))
    output = OutputDense(vocab_size, kernel_init=xavier)
    options = {"position_embedding": positions, "output": output, "context": context, **options}
    return transformer(*sizes, **options)
