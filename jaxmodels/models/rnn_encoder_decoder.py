"""Translation with a GRU that looks at the source."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxmodels.kernels.additive_attention import Source, attentive_gru
from jaxmodels.layers.cells import GRU
from jaxmodels.layers.dense import Dense
from jaxmodels.layers.recurrent import Initializer, Recurrent, Stack, Weights, check_tokens
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import CARRY, Array

Memory = dict[str, Array]


class Encoder(nn.Module):
    """A bidirectional GRU, and what a decoder needs of its outputs."""

    vocab_size: int
    embedding: int
    features: int
    dropout: float
    kernel_init: Initializer

    @nn.compact
    def __call__(self, source: Int[Array, "B S"], train: bool = False) -> Memory:
        """Compute `values` (B, S, 2 D), their projections, the `mask`, the decoder's `state`."""
        mask = source != PAD
        init = self.kernel_init
        embed = nn.Embed(self.vocab_size, self.embedding, embedding_init=init, name="embedding")
        x = nn.Dropout(self.dropout, deterministic=not train)(embed(source))
        layer = functools.partial(
            Recurrent, self.features, GRU(), kernel_init=init, recurrent_init=init
        )
        lengths = jnp.sum(mask, axis=1)
        values, ends = Stack(layer, bidirectional=True, name="recurrent")(x, lengths=lengths)
        last = jnp.concatenate([h for (h,) in ends], axis=-1)
        D = self.features
        return {
            "values": values,
            "keys": Dense(D, kernel_init=init, name="keys")(values),
            "gates": Dense(3 * D, use_bias=False, kernel_init=init, name="gates")(values),
            "mask": mask,
            "state": nn.tanh(Dense(D, kernel_init=init, name="state")(last)),
        }


class Decoder(nn.Module):
    """A GRU whose inputs are the last token and what attention finds in the source."""

    vocab_size: int
    embedding: int
    features: int
    dropout: float
    kernel_init: Initializer

    @nn.compact
    def __call__(
        self, target: Int[Array, "B T"], memory: Memory, train: bool = False, carry: bool = False
    ) -> Float[Array, "B T V"]:
        """Compute logits of each next token; `attention` (B, T, S) is among the intermediates."""
        D, init = self.features, self.kernel_init
        embed = nn.Embed(self.vocab_size, self.embedding, embedding_init=init, name="embedding")
        embedded = nn.Dropout(self.dropout, deterministic=not train)(embed(target))
        x = Dense(3 * D, kernel_init=init, name="input")(embedded.swapaxes(0, 1))
        kernel, bias = Weights((D, 3 * D), init, nn.initializers.zeros, name="recurrent")()
        assert bias is not None
        query, _ = Weights((D, D), init, name="query")()
        scale = Weights((D, 1), init, name="scale")()[0][:, 0]
        source = Source(memory["keys"], memory["gates"], memory["mask"], scale)
        h, weights = attentive_gru(x, kernel, bias, query, self._begin(memory, carry), source)
        if carry and not self.is_initializing():
            self.put_variable(CARRY, "state", h[-1])
            self.put_variable(CARRY, "started", jnp.ones(len(target), bool))
        h, weights = h.swapaxes(0, 1), weights.swapaxes(0, 1)
        self.sow("intermediates", "attention", weights)
        found = weights.astype(h.dtype) @ memory["values"]
        joined = jnp.concatenate([h, found, embedded], axis=-1)
        output = Dense(self.vocab_size, kernel_init=init, name="output")
        return output(joined).astype(jnp.float32)

    def _begin(self, memory: Memory, carry: bool) -> Array:
        """The encoder's state, or where the last call ended."""
        first = memory["state"]
        if not carry:
            return first
        state = self.variable(CARRY, "state", jnp.zeros_like, first)
        started = self.variable(CARRY, "started", jnp.zeros, len(first), bool)
        return jnp.where(started.value[:, None], state.value.astype(first.dtype), first)


class AttentionTranslator(nn.Module):
    """A translator whose decoder attends to the source in each step.

    Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate",
    in the form of bentrevett/pytorch-seq2seq, notebook 3, whose sizes are the defaults: one layer
    of GRU on each side, no maxout, logits of [h; what attention found; the last token's embedding].
    20,518,405 parameters for 7,853 and 5,893 words. There, half of the tokens that the decoder
    reads in training are its own guesses, here all are true ones; and here padding is not read.

    Attributes:
        source_vocab: how many tokens there are to read; 0 is padding, at the end.
        vocab_size: how many there are to write.
        embedding: width of both embeddings.
        features: width D of the states.
        dropout: the rate on both embeddings.
        kernel_init: of all weights; biases begin at 0.
    """

    source_vocab: int
    vocab_size: int
    embedding: int = 256
    features: int = 512
    dropout: float = 0.5
    kernel_init: Initializer = nn.initializers.normal(0.01)

    def setup(self) -> None:
        """Make both halves."""
        sizes = self.embedding, self.features, self.dropout, self.kernel_init
        self.encoder = Encoder(self.source_vocab, *sizes)
        self.decoder = Decoder(self.vocab_size, *sizes)

    def __call__(
        self, source: Int[Array, "B S"], target: Int[Array, "B T"], train: bool = False
    ) -> Float[Array, "B T V"]:
        """Compute the logits of each token that follows one of `target`."""
        return self.decode(target, self.encode(source, train), train)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split: the vocabularies (see `models.rnn`)."""
        return {"embedding/embedding": -2, "output/": -1}

    def encode(self, source: Int[Array, "B S"], train: bool = False) -> Memory:
        """Read the source: what `decode` needs of it, by name, arrays (B, ...)."""
        check_tokens(self, source)
        return self.encoder(source, train)

    def decode(
        self, target: Int[Array, "B T"], memory: Memory, train: bool = False, carry: bool = False
    ) -> Float[Array, "B T V"]:
        """Compute logits; with `carry`, from where the last call ended."""
        check_tokens(self, target)
        return self.decoder(target, memory, train, carry)


def cross_attention(
    model: AttentionTranslator, variables: Any, source: Int[Array, "B S"], target: Int[Array, "B T"]
) -> Float[Array, "B 1 T S"]:
    """What the decoder looks at in the source."""
    found: Any = model.apply(variables, source, target, mutable=["intermediates"])[1]
    return found["intermediates"]["decoder"]["attention"][0][:, None]
