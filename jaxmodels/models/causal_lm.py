"""Causal language models of Transformer blocks: GPT-2 and 3, nanoGPT, Llama."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Bool, Float, Int

from jaxmodels.errors import UserError
from jaxmodels.layers.attention import (
    SelfAttention,
    same_segment,
    segment_positions,
)
from jaxmodels.layers.blocks import BLOCK_DIMS, Block, Make, Stack, layer_norm
from jaxmodels.layers.constraints import per_shard
from jaxmodels.layers.dense import project
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.feedforward import FeedForward, GatedFeedForward, gelu_tanh
from jaxmodels.layers.positions import LearnedPositions, Positions, rotary
from jaxmodels.layers.shapes import check_length, check_sizes
from jaxmodels.losses import cross_entropy, in_chunks, token_scores
from jaxmodels.typing import Array


class CausalLM(nn.Module):
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
    norm: Make = layer_norm
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
        self.count = Positions()
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

        Positions are then those within the segment; `data.text.pack_documents` makes such rows.
        With `carry` the tokens go on where the last call ended: keys, values and position are in
        the collection of that name, made for as many tokens as `init` is given.
        """
        features = self._features(tokens, segments, train, carry)
        return project(features, self._output.embedding)

    def token_losses(
        self,
        tokens: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T"]:
        """Cross-entropies in nats; the logits never stand in memory together."""
        return self._in_chunks(cross_entropy, tokens, targets, segments, train)

    def token_scores(
        self,
        tokens: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
        """Cross-entropies, and whether the target has the largest logit; memory as in `losses`."""
        return self._in_chunks(token_scores, tokens, targets, segments, train=False)

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

        return per_shard(own, self._output.embedding, features, targets)

    def _features(
        self, tokens: Array, segments: Array | None, train: bool, carry: bool
    ) -> Float[Array, "B T D"]:
        check_length(tokens, self.context)
        if carry and segments is not None:
            raise UserError("A carry goes on with one document a row; these have segments.")
        positions = self.count(tokens, carry) if segments is None else segment_positions(segments)
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.place(positions).astype(x.dtype)
        x = self.drop(x, train)
        mask = None if segments is None else same_segment(segments)
        x = self.stack(x, train=train, carry=carry, positions=positions, mask=mask)
        return self.final_norm(x)


def gpt2(
    vocab_size: int,
    context: int,
    width: int,
    depth: int,
    num_heads: int,
    dropout: float = 0.0,
    use_bias: bool = True,
    **options: Any,
) -> CausalLM:
    """GPT-2's blocks (Radford et al. 2019, section 2.3): pre-norm, tanh GELU of 4 widths.

    The kernels that write to the residual stream start smaller by sqrt(2 depth).
    """
    check_sizes(width=width, depth=depth, num_heads=num_heads)
    normal = nn.initializers.normal(0.02)
    inits = {
        "use_bias": use_bias,
        "kernel_init": normal,
        "out_init": nn.initializers.normal(0.02 / (2 * depth) ** 0.5),
    }
    norm = functools.partial(layer_norm, use_bias=use_bias)
    block = functools.partial(
        Block,
        functools.partial(SelfAttention, num_heads, causal=True, **inits),
        functools.partial(FeedForward, 4 * width, gelu_tanh, **inits),
        norm,
        dropout=dropout,
    )
    return CausalLM(vocab_size, context, width, depth, block, norm=norm, dropout=dropout, **options)


def gpt2_small(vocab_size: int = 50_257, **options: Any) -> CausalLM:
    """124,439,808 parameters."""
    return gpt2(vocab_size, 1024, 768, 12, 12, **options)


def gpt2_medium(vocab_size: int = 50_257, **options: Any) -> CausalLM:
    """354,823,168 parameters."""
    return gpt2(vocab_size, 1024, 1024, 24, 16, **options)


def gpt2_large(vocab_size: int = 50_257, **options: Any) -> CausalLM:
    """774,030,080 parameters."""
    return gpt2(vocab_size, 1024, 1280, 36, 20, **options)


def gpt2_xl(vocab_size: int = 50_257, **options: Any) -> CausalLM:
    """1,557,611,200 parameters."""
    return gpt2(vocab_size, 1024, 1600, 48, 25, **options)


def gpt3_175b(vocab_size: int = 50_257, **options: Any) -> CausalLM:
    """174,604,259,328 parameters (Brown et al. 2020, "Language models are few-shot learners").

    Table 2.1's 175 billion; there every second block attends within a local band only.
    """
    return gpt2(vocab_size, 2048, 12_288, 96, 96, **options)


def nanogpt_cpu(vocab_size: int = 65, **options: Any) -> CausalLM:
    """The 4 layers that nanoGPT trains on a CPU: 804,096 parameters for 65 characters."""
    return gpt2(vocab_size, 64, 128, 4, 4, use_bias=False, **options)


def nanogpt(vocab_size: int = 65, dropout: float = 0.2, **options: Any) -> CausalLM:
    """The 6 layers that nanoGPT trains on a GPU: 10,745,088 parameters for 65 characters."""
    return gpt2(vocab_size, 256, 384, 6, 6, dropout, use_bias=False, **options)


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
) -> CausalLM:
    """Llama's blocks: RMSNorm, rotary positions, SwiGLU, grouped heads, no biases, not tied.

    Touvron et al. 2023, "LLaMA", section 2.2, and "Llama 2", section 2.2.
    """
    check_sizes(width=width, depth=depth, num_heads=num_heads, kv_heads=kv_heads)
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
    return CausalLM(vocab_size, context, width, depth, block, **options)


def llama2_7b(**options: Any) -> CausalLM:
    """6,738,415,616 parameters."""
    return llama(32_000, 4096, 4096, 32, 32, 32, 11_008, **options)


def llama3_8b(**options: Any) -> CausalLM:
    """8,030,261,248 parameters (Grattafiori et al. 2024)."""
    return llama(128_256, 8192, 4096, 32, 32, 8, 14_336, base=500_000.0, **options)
