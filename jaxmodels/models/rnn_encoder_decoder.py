"""RNN encoder-decoder with attention: translation with GRUs (Bahdanau et al. 2015)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.kernels.additive_attention import Source, attentive_gru
from jaxmodels.layers.cells import GRU
from jaxmodels.layers.dense import Dense, OutputDense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer
from jaxmodels.layers.recurrent import RNN, StackedRNN, Weights
from jaxmodels.layers.shapes import check_sizes, check_tokens
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import CARRY, Array, Model

Memory = dict[str, Array]
"""The encoded source, by name: see `RNNEncoder.__call__`."""
_normal = nn.initializers.normal(0.01)


class RNNEncoder(nn.Module):
    """Bidirectional GRU over the source, with the projections that `AttentionDecoder` reads.

    Attributes:
        vocab_size: of the source; 0 is padding, at the end.
        embedding: width of the embedding.
        features: width D of the states.
        dropout: the rate on the embedding.
        kernel_init: of all weights; biases begin at 0.
    """

    vocab_size: int
    embedding: int = 256
    features: int = 512
    dropout: float = 0.5
    kernel_init: Initializer = _normal

    def __post_init__(self) -> None:
        check_sizes(vocab_size=self.vocab_size, embedding=self.embedding, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, source: Integer[Array, "B S"], train: bool = False) -> Memory:
        """Compute `values` (B, S, 2 D), their projections, the `mask`, the decoder's `state`."""
        mask = source != PAD
        init = self.kernel_init
        embed = nn.Embed(self.vocab_size, self.embedding, embedding_init=init, name="embedding")
        x = Dropout(self.dropout)(embed(source), train)
        layer = RNN(self.features, GRU(), kernel_init=init, recurrent_init=init)
        lengths = jnp.sum(mask, axis=1)
        values, ends = StackedRNN(layer, bidirectional=True, name="recurrent")(x, lengths=lengths)
        last = jnp.concatenate([h for (h,) in ends], axis=-1)
        D = self.features
        return {
            "values": values,
            "keys": Dense(D, kernel_init=init, name="keys")(values),
            "gates": Dense(3 * D, use_bias=False, kernel_init=init, name="gates")(values),
            "mask": mask,
            "state": nn.tanh(Dense(D, kernel_init=init, name="state")(last)),
        }


class AttentionDecoder(nn.Module):
    """GRU that attends to the source in each step; its inputs are the last token and the context.

    Its attributes are those of `RNNEncoder`, for the target.
    """

    vocab_size: int
    embedding: int = 256
    features: int = 512
    dropout: float = 0.5
    kernel_init: Initializer = _normal

    def __post_init__(self) -> None:
        check_sizes(vocab_size=self.vocab_size, embedding=self.embedding, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        target: Integer[Array, "B T"],
        memory: Memory,
        train: bool = False,
        carry: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute logits of each next token; `attention` (B, T, S) is among the intermediates."""
        D, init = self.features, self.kernel_init
        embed = nn.Embed(self.vocab_size, self.embedding, embedding_init=init, name="embedding")
        embedded = Dropout(self.dropout)(embed(target), train)
        x = Dense(3 * D, kernel_init=init, name="input")(embedded.swapaxes(0, 1))
        kernel, bias = Weights((D, 3 * D), init, nn.initializers.zeros, name="recurrent")()
        assert bias is not None
        query, _ = Weights((D, D), init, name="query")()
        scale = Weights((D, 1), init, name="scale")()[0][:, 0]
        source = Source(memory["keys"], memory["gates"], memory["mask"], scale)
        h, weights = attentive_gru(x, kernel, bias, query, self._begin(memory, carry), source)
        if carry and not self.is_initializing():
            kept = self.get_variable(CARRY, "state").dtype
            self.put_variable(CARRY, "state", h[-1].astype(kept))
            self.put_variable(CARRY, "started", jnp.ones(len(target), bool))
        h, weights = h.swapaxes(0, 1), weights.swapaxes(0, 1)
        self.sow("intermediates", "attention", weights)
        context = weights.astype(h.dtype) @ memory["values"]
        joined = jnp.concatenate([h, context, embedded], axis=-1)
        return OutputDense(self.vocab_size, kernel_init=init, name="output")(joined)

    def _begin(self, memory: Memory, carry: bool) -> Array:
        """The encoder's state, or where the last call ended."""
        first = memory["state"]
        if not carry:
            return first
        state = self.variable(CARRY, "state", jnp.zeros_like, first)
        started = self.variable(CARRY, "started", jnp.zeros, len(first), bool)
        return jnp.where(started.value[:, None], state.value.astype(first.dtype), first)


class RNNEncoderDecoder(nn.Module):
    """Encoder and decoder of a translator; `bahdanau` makes one.

    Attributes:
        encoder: reads the source: memory = encoder(source, train).
        decoder: logits = decoder(target, memory, train, carry), of as many features.
    """

    encoder: RNNEncoder
    decoder: AttentionDecoder

    def __post_init__(self) -> None:
        sizes = self.encoder.features, self.decoder.features
        if sizes[0] != sizes[1]:
            raise UserError(
                "The decoder begins with a state computed by the encoder: both have the same "
                f"features; got {sizes[0]} and {sizes[1]}."
            )
        super().__post_init__()

    def __call__(
        self, source: Integer[Array, "B S"], target: Integer[Array, "B T"], train: bool = False
    ) -> Float[Array, "B T V"]:
        """Compute the logits of each token that follows one of `target`."""
        return self.decode(target, self.encode(source, train), train)

    @property
    def source_vocab(self) -> int:
        """The number of source tokens."""
        return self.encoder.vocab_size

    @property
    def vocab_size(self) -> int:
        """The number of target tokens."""
        return self.decoder.vocab_size

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split: the vocabularies."""
        return {"embedding/embedding": -2, "output/": -1}

    def encode(self, source: Integer[Array, "B S"], train: bool = False) -> Memory:
        """Read the source: what `decode` needs of it, by name, arrays (B, ...)."""
        check_tokens(self, source)
        return self.encoder(source, train)

    def decode(
        self,
        target: Integer[Array, "B T"],
        memory: Memory,
        train: bool = False,
        carry: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute logits; with `carry`, from where the last call ended."""
        check_tokens(self, target)
        return self.decoder(target, memory, train, carry)


def bahdanau(
    source_vocab: int,
    vocab_size: int,
    embedding: int = 256,
    features: int = 512,
    dropout: float = 0.5,
    kernel_init: Initializer = _normal,
) -> RNNEncoderDecoder:
    """GRU translator with additive attention: 20,518,405 parameters for 7,853 and 5,893 words.

    Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate",
    in the form of bentrevett/pytorch-seq2seq, notebook 3, whose sizes are the defaults: one layer
    of GRU on each side, no maxout, logits of [h; context; the last token's embedding]. There, half
    of the tokens that the decoder reads in training are its own guesses, here all are true ones;
    and here padding is not read.
    """
    sizes = embedding, features, dropout, kernel_init
    return RNNEncoderDecoder(RNNEncoder(source_vocab, *sizes), AttentionDecoder(vocab_size, *sizes))


def cross_attention(
    model: Model,
    variables: Any,
    source: Integer[Array, "B S"],
    target: Integer[Array, "B T"],
) -> Float[Array, "B 1 T S"]:
    """Attention weights of each target token over the source."""
    kept: Any = model.apply(variables, source, target, mutable=["intermediates"])[1]
    return kept["intermediates"]["decoder"]["attention"][0][:, None]
