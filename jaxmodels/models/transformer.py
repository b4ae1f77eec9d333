"""Transformers: a language model and an encoder-decoder, stacks of one block."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxmodels.errors import UserError
from jaxmodels.layers.attention import (
    CrossAttention,
    KeysValues,
    SelfAttention,
    places,
    same_segment,
)
from jaxmodels.layers.blocks import Block, Make, Residual, Stack, post_norm, pre_norm
from jaxmodels.layers.constraints import on_own_rows
from jaxmodels.layers.dense import Dense, project
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.feedforward import FeedForward, GatedFeedForward, gelu_tanh
from jaxmodels.layers.positions import Counter, LearnedPositions, SinusoidalPositions, rotary
from jaxmodels.losses import cross_entropy, in_chunks, judged
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import Array

torch_normal = functools.partial(nn.LayerNorm, epsilon=1e-5)
"""LayerNorm with PyTorch's epsilon, which published weights were trained with."""


BLOCK_DIMS = {
    "attention/(query|key_value)/": -2,
    "attention/out/kernel": -3,
    "feedforward/(hidden|gate)/": -1,
    "feedforward/out/kernel": -2,
}
"""The dimensions of a block that may be split over devices: heads, and hidden features."""
MEMORY_DIMS = {"(cross/query|memory/project)/": -2, "cross/out/kernel": -3}


class GPT(nn.Module):
    """A language model: what comes next, after each token.

    Attributes:
        vocab_size: V.
        context: the most tokens that it can look back on.
        width: D.
        depth: how many blocks.
        block: makes a block; takes a `name`.
        positions: makes what is added to the embeddings, of (context, width); nothing where the
            attention itself knows positions.
        norm: of the last block's output; takes a `name`.
        dropout: of the embeddings.
        tied: whether the embedding is also the output layer's kernel (Press and Wolf 2017).
        stddev: of the embeddings at first.
        chunk: of how many tokens of each row `losses` computes the logits at a time.
        remat: see `Stack`.
        unroll: see `Stack`.
    """

    vocab_size: int
    context: int
    width: int
    depth: int
    block: Make
    positions: Callable[[int, int], nn.Module] | None = LearnedPositions
    norm: Make = torch_normal
    dropout: float = 0.0
    tied: bool = True
    stddev: float = 0.02
    chunk: int = 128
    remat: Callable[..., Any] | None = None
    unroll: int = 1

    def setup(self) -> None:
        """Make the parts."""
        normal = nn.initializers.normal(self.stddev)
        self.embedding = nn.Embed(self.vocab_size, self.width, embedding_init=normal)
        if self.positions is not None:
            self.place = self.positions(self.context, self.width)
        self.count = Counter()
        self.drop = Dropout(self.dropout)
        self.stack = Stack(self.block, self.depth, self.remat, self.unroll)
        self.final_norm = self.norm()
        if not self.tied:
            self.output = nn.Embed(self.vocab_size, self.width, embedding_init=normal)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        train: bool = False,
        carry: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute logits; tokens see those of their own segment only, if segments are given.

        Positions are then those within the segment. Rows are filled as `data.text.packed` does.
        With `carry` the tokens go on where the last call ended: keys, values and position are in
        the collection of that name, made for as many tokens as `init` is given.
        """
        features = self._features(tokens, segments, train, carry)
        return project(features, self._output.embedding)

    def losses(
        self,
        tokens: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T"]:
        """Cross-entropies in nats; the logits never stand in memory together."""
        return self._in_chunks(cross_entropy, tokens, targets, segments, train)

    def judged(
        self,
        tokens: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
        """Cross-entropies, and whether the target has the largest logit; memory as in `losses`."""
        return self._in_chunks(judged, tokens, targets, segments, train=False)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: heads, hidden features, vocabulary."""
        return {**BLOCK_DIMS, "(embedding|output)/embedding": -2}

    @property
    def _output(self) -> nn.Embed:
        return self.embedding if self.tied else self.output

    def _in_chunks(
        self,
        score: Callable[[Array, Array], Any],
        tokens: Array,
        targets: Array,
        segments: Array | None,
        train: bool,
    ) -> Any:
        features = self._features(tokens, segments, train, carry=False)

        def own(embedding: Array, features: Array, targets: Array) -> Any:
            return in_chunks(
                lambda x, target: score(project(x, embedding), target),
                *(features, targets, self.chunk),
            )

        return on_own_rows(own, self._output.embedding, features, targets)

    def _features(
        self, tokens: Array, segments: Array | None, train: bool, carry: bool
    ) -> Float[Array, "B T D"]:
        check_length(tokens, self.context)
        if carry and segments is not None:
            raise UserError("A carry goes on with one document a row; these have segments.")
        positions = self.count(tokens, carry) if segments is None else places(segments)
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.place(positions).astype(x.dtype)
        x = self.drop(x, train)
        mask = None if segments is None else same_segment(segments)
        x = self.stack(x, train=train, carry=carry, positions=positions, mask=mask)
        return self.final_norm(x)


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
        self.count = Counter()
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


def check_length(tokens: Array, context: int) -> None:
    """Raise `UserError` for a sequence that is longer than the context."""
    if tokens.shape[1] > context:
        raise UserError(
            f"A sequence of {tokens.shape[1]} tokens is longer than the model's context of "
            f"{context}. Cut it, or make the model with a larger `context`."
        )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"A Transformer's {name} is at least 1; got {size}.")


def gpt(
    vocab_size: int,
    context: int,
    width: int,
    depth: int,
    num_heads: int,
    dropout: float = 0.0,
    use_bias: bool = True,
    **options: Any,
) -> GPT:
    """GPT-2's blocks (Radford et al. 2019, section 2.3): pre-norm, tanh GELU of 4 widths.

    The kernels that write to the residual stream start smaller by sqrt(2 depth).
    """
    _check_sizes(width=width, depth=depth, num_heads=num_heads)
    normal = nn.initializers.normal(0.02)
    inits = {
        "use_bias": use_bias,
        "kernel_init": normal,
        "out_init": nn.initializers.normal(0.02 / (2 * depth) ** 0.5),
    }
    norm = functools.partial(torch_normal, use_bias=use_bias)
    block = functools.partial(
        Block,
        functools.partial(SelfAttention, num_heads, causal=True, **inits),
        functools.partial(FeedForward, 4 * width, gelu_tanh, **inits),
        norm,
        dropout=dropout,
    )
    return GPT(vocab_size, context, width, depth, block, norm=norm, dropout=dropout, **options)


def gpt2_small(vocab_size: int = 50_257, **options: Any) -> GPT:
    """124,439,808 parameters."""
    return gpt(vocab_size, 1024, 768, 12, 12, **options)


def gpt2_medium(vocab_size: int = 50_257, **options: Any) -> GPT:
    """354,823,168 parameters."""
    return gpt(vocab_size, 1024, 1024, 24, 16, **options)


def gpt2_large(vocab_size: int = 50_257, **options: Any) -> GPT:
    """774,030,080 parameters."""
    return gpt(vocab_size, 1024, 1280, 36, 20, **options)


def gpt2_xl(vocab_size: int = 50_257, **options: Any) -> GPT:
    """1,557,611,200 parameters."""
    return gpt(vocab_size, 1024, 1600, 48, 25, **options)


def gpt3_175b(vocab_size: int = 50_257, **options: Any) -> GPT:
    """174,604,259,328 parameters (Brown et al. 2020, "Language models are few-shot learners").

    Table 2.1's 175 billion; there every second block attends within a local band only.
    """
    return gpt(vocab_size, 2048, 12_288, 96, 96, **options)


def nanogpt_cpu(vocab_size: int = 65, **options: Any) -> GPT:
    """The 4 layers that nanoGPT trains on a CPU: 804,096 parameters for 65 characters."""
    return gpt(vocab_size, 64, 128, 4, 4, use_bias=False, **options)


def nanogpt(vocab_size: int = 65, dropout: float = 0.2, **options: Any) -> GPT:
    """The 6 layers that nanoGPT trains on a GPU: 10,745,088 parameters for 65 characters."""
    return gpt(vocab_size, 256, 384, 6, 6, dropout, use_bias=False, **options)


def llama(
    vocab_size: int,
    context: int,
    width: int,
    depth: int,
    num_heads: int,
    kv_heads: int,
    hidden: int,
    base: float = 10_000.0,
    **options: Any,
) -> GPT:
    """Llama's blocks: RMSNorm, rotary positions, SwiGLU, grouped heads, no biases, not tied.

    Touvron et al. 2023, "LLaMA", section 2.2, and "Llama 2", section 2.2.
    """
    _check_sizes(width=width, depth=depth, num_heads=num_heads, kv_heads=kv_heads)
    normal = nn.initializers.normal(0.02)
    norm = functools.partial(nn.RMSNorm, epsilon=1e-5)
    attention = functools.partial(
        SelfAttention,
        num_heads,
        kv_heads,
        causal=True,
        rotate=functools.partial(rotary, base=base),
        use_bias=False,
        kernel_init=normal,
    )
    feedforward = functools.partial(GatedFeedForward, hidden, kernel_init=normal)
    block = functools.partial(Block, attention, feedforward, norm)
    options = {"positions": None, "norm": norm, "tied": False, **options}
    return GPT(vocab_size, context, width, depth, block, **options)


def llama2_7b(**options: Any) -> GPT:
    """6,738,415,616 parameters."""
    return llama(32_000, 4096, 4096, 32, 32, 32, 11_008, **options)


def llama3_8b(**options: Any) -> GPT:
    """8,030,261,248 parameters (Grattafiori et al. 2024)."""
    return llama(128_256, 8192, 4096, 32, 32, 8, 14_336, base=500_000.0, **options)


def translator(
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
    _check_sizes(width=width, depth=depth, num_heads=num_heads)
    parts = (
        functools.partial(FeedForward, hidden, dropout=dropout),
        torch_normal,
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
    options = {"norm": torch_normal if residual is pre_norm else None, **options}
    return EncoderDecoder(*sizes, encoder, decoder, dropout=dropout, **options)


def transformer_base(vocab_size: int = 37_000, **options: Any) -> EncoderDecoder:
    """Vaswani et al. 2017, table 3: 6 + 6 layers of width 512, one vocabulary; 65 million there.

    63,082,496 parameters by the paper's own sizes, of which the vocabulary's share is rounded.
    """
    return translator(None, vocab_size, 512, 6, 8, 2048, **options)


def transformer_big(vocab_size: int = 37_000, **options: Any) -> EncoderDecoder:
    """Table 3's big one: width 1024, 16 heads, dropout 0.3; 213 million there."""
    return translator(None, vocab_size, 1024, 6, 16, 4096, 0.3, **options)


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
    return translator(source_vocab, vocab_size, width, depth, num_heads, hidden, **options)
