"""Causal language models of Transformer blocks: GPT-2 and 3, nanoGPT, Llama."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Bool, Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.kernels.attention import attend
from jaxmodels.layers.attention import Attend, SelfAttention, same_segment
from jaxmodels.layers.blocks import BLOCK_DIMS, Block, Policy, Stack, layer_norm
from jaxmodels.layers.constraints import per_shard
from jaxmodels.layers.context import Context
from jaxmodels.layers.dense import project
from jaxmodels.layers.embeddings import TokenEmbedding
from jaxmodels.layers.feedforward import FeedForward, GatedFeedForward, gelu_tanh
from jaxmodels.layers.initializers import normal
from jaxmodels.layers.positions import LearnedPositions, Positions, Rotary, segment_positions
from jaxmodels.layers.shapes import check_length, check_sizes, check_tokens
from jaxmodels.losses import cross_entropy, in_chunks, token_scores
from jaxmodels.typing import CACHE, Array


class CausalLM(nn.Module):
    """A causal language model: logits of the next token, after each token.

    Attributes:
        embedding: of tokens and positions.
        stack: the blocks.
        context: the longest sequence.
        final_norm: of the last block's output.
        output: its `embedding` (V, D) is the kernel of the output layer; if absent, the tokens' own
            embedding is (Press and Wolf 2017, "Using the output embedding").
        chunk: of how many tokens of each row `token_losses` computes the logits at a time.
    """

    embedding: TokenEmbedding
    stack: Stack
    context: int
    final_norm: nn.Module = dataclasses.field(default_factory=layer_norm)
    output: nn.Embed | None = None
    chunk: int = 128

    state_collection = CACHE

    def setup(self) -> None:
        check_sizes(context=self.context)
        self.positions = Positions()

    def __call__(
        self,
        tokens: Integer[Array, "B T"],
        segments: Integer[Array, "B T"] | None = None,
        train: bool = False,
        cache: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute logits; with segments, tokens attend to those of their own segment only.

        Positions are then those within the segment. `data.text.pack_documents` makes such rows.
        With `cache` the tokens follow those of the last call: keys, values and positions are in the
        collection `cache`, which holds as many tokens as `init` is given.
        """
        return project(self._features(tokens, segments, train, cache), self._output_kernel)

    def token_losses(
        self,
        tokens: Integer[Array, "B T"],
        targets: Integer[Array, "B T"],
        segments: Integer[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T"]:
        """Cross-entropies in nats, without ever holding all logits in memory."""
        return self._in_chunks(cross_entropy, tokens, targets, segments, train)

    def token_scores(
        self,
        tokens: Integer[Array, "B T"],
        targets: Integer[Array, "B T"],
        segments: Integer[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
        """`token_losses`, and whether the target has the largest logit."""
        return self._in_chunks(token_scores, tokens, targets, segments, train=False)

    @property
    def vocab_size(self) -> int:
        return self.embedding.vocab_size

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: heads, hidden features, vocabulary."""
        return {**BLOCK_DIMS, "/(embedding|output)/embedding": -2}

    @property
    def _output_kernel(self) -> Float[Array, "V D"]:
        return self.embedding.embedding if self.output is None else self.output.embedding

    def _in_chunks(
        self,
        score: Callable[[Array, Array], Any],
        tokens: Array,
        targets: Array,
        segments: Array | None,
        train: bool,
    ) -> Any:
        features = self._features(tokens, segments, train, cache=False)

        def on_shard(kernel: Array, features: Array, targets: Array) -> Any:
            return in_chunks(
                lambda x, target: score(project(x, kernel), target),
                *(features, targets, self.chunk),
            )

        return per_shard(on_shard, self._output_kernel, features, targets)

    def _features(
        self, tokens: Array, segments: Array | None, train: bool, cache: bool
    ) -> Float[Array, "B T D"]:
        check_tokens(self, tokens)
        check_length(tokens, self.context)
        if cache and segments is not None:
            raise UserError("A cache is of one document a row; these rows have segments.")
        if segments is None:
            positions, mask = self.positions(tokens, cache), None
        else:
            positions, mask = segment_positions(segments), same_segment(segments)
        x = self.embedding(tokens, positions, train)
        x = self.stack(x, Context(positions, mask, cache=cache), train)
        return self.final_norm(x)


def gpt2(
    vocab_size: int,
    context: int,
    width: int,
    depth: int,
    num_heads: int,
    dropout: float = 0.0,
    use_bias: bool = True,
    *,
    attention_dropout: float = 0.0,
    attend: Attend = attend,
    chunk: int = 128,
    remat: Policy | None = None,
    unroll: int = 1,
) -> CausalLM:
    """GPT-2's blocks (Radford et al. 2019, section 2.3): pre-norm, tanh GELU of 4 widths.

    The kernels that write to the residual stream are initialised smaller by sqrt(2 depth).
    """
    check_sizes(width=width, depth=depth, num_heads=num_heads)
    small = normal(0.02 / (2 * depth) ** 0.5)
    options: dict[str, Any] = {"use_bias": use_bias, "kernel_init": normal(0.02), "out_init": small}
    own: dict[str, Any] = {"dropout": attention_dropout, "attend": attend}
    attention = SelfAttention(num_heads, causal=True, **own, **options)
    block = Block(
        (attention, FeedForward(4 * width, gelu_tanh, **options)),
        layer_norm(use_bias),
        dropout=dropout,
    )
    return CausalLM(
        TokenEmbedding(vocab_size, width, LearnedPositions(context, width), dropout),
        Stack((block,), depth, remat, unroll),
        context,
        layer_norm(use_bias),
        chunk=chunk,
    )


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
    *,
    attend: Attend = attend,
    chunk: int = 128,
    remat: Policy | None = None,
    unroll: int = 1,
) -> CausalLM:
    """Llama's blocks: RMSNorm, rotary positions, SwiGLU, grouped heads, no biases, not tied.

    Touvron et al. 2023, "LLaMA", section 2.2, and "Llama 2", section 2.2.
    """
    check_sizes(width=width, depth=depth, num_heads=num_heads, kv_heads=kv_heads)
    init, norm = normal(0.02), functools.partial(nn.RMSNorm, epsilon=1e-5)
    options: dict[str, Any] = {"use_bias": False, "kernel_init": init, "attend": attend}
    attention = SelfAttention(num_heads, kv_heads, causal=True, rotate=Rotary(base), **options)
    block = Block((attention, GatedFeedForward(hidden, kernel_init=init)), norm())
    return CausalLM(
        TokenEmbedding(vocab_size, width),
        Stack((block,), depth, remat, unroll),
        context,
        norm(),
        nn.Embed(vocab_size, width, embedding_init=init),
        chunk,
    )


def llama2_7b(**options: Any) -> CausalLM:
    """6,738,415,616 parameters."""
    return llama(32_000, 4096, 4096, 32, 32, 32, 11_008, **options)


def llama3_8b(**options: Any) -> CausalLM:
    """8,030,261,248 parameters (Grattafiori et al. 2024)."""
    return llama(128_256, 8192, 4096, 32, 32, 8, 14_336, base=500_000.0, **options)
