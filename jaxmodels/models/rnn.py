"""Recurrent networks: language models, and classifiers or regressors of sequences."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.layers.cells import LSTM
from jaxmodels.layers.dense import OutputDense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer, uniform
from jaxmodels.layers.recurrent import RNN, StackedRNN, States, time_dropout
from jaxmodels.layers.shapes import check_sequence, check_sizes, check_tokens
from jaxmodels.typing import CARRY, Array


class RNNLanguageModel(nn.Module):
    """Embedding, recurrent layers, and logits of the next token.

    Zaremba et al. 2014, "Recurrent neural network regularization": dropout before the first layer,
    between layers and after the last one.

    Attributes:
        vocab_size: V.
        layer: one of them, such as `RNN(200, LSTM())`, forwards.
        depth: how many layers.
        embedding: its width.
        dropout: the rate.
        per_sequence: whether dropout takes one mask for all steps (Gal and Ghahramani 2016).
        embedding_init: of the embedding.
        kernel_init: of the output layer's kernel.
        bias_init: of the output layer's bias.
    """

    vocab_size: int
    layer: RNN
    depth: int = 1
    embedding: int = 128
    dropout: float = 0.0
    per_sequence: bool = False
    embedding_init: Initializer = nn.initializers.normal(1.0)
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    def __post_init__(self) -> None:
        check_sizes(vocab_size=self.vocab_size, depth=self.depth, embedding=self.embedding)
        if self.layer.reverse:
            raise UserError("A language model's layers go forwards: backwards they see the target.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "B T"],
        segments: Integer[Array, "B T"] | None = None,
        train: bool = False,
        carry: bool = False,
    ) -> Float[Array, "B T V"]:
        """Compute logits; with `carry`, from the states of the collection `carry`, which move on.

        The outputs are float32 at least. A fresh carry is zeros. `UserError` for rows of several
        documents.
        """
        check_tokens(self, tokens)
        if segments is not None:
            raise UserError(
                "A recurrent model would carry its state from one packed document into the next: "
                "give it one document a row, or a continuous text (`data.text.stream`)."
            )
        embed = nn.Embed(
            self.vocab_size, self.embedding, embedding_init=self.embedding_init, name="embedding"
        )
        x = time_dropout(self.dropout, self.per_sequence)(embed(tokens), train)
        stack = StackedRNN(
            self.layer,
            self.depth,
            dropout=self.dropout,
            per_sequence=self.per_sequence,
            name="recurrent",
        )
        x = self._with_carry(stack, x, train) if carry else stack(x, train=train)[0]
        x = time_dropout(self.dropout, self.per_sequence)(x, train)
        output = OutputDense(
            self.vocab_size, kernel_init=self.kernel_init, bias_init=self.bias_init, name="output"
        )
        return output(x)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split: the vocabulary.

        Not the recurrent layers: each of their steps would wait for the other devices.
        """
        return {"embedding/embedding": -2, "output/": -1}

    def _with_carry(self, stack: StackedRNN, x: Array, train: bool) -> Array:
        shape = (x.shape[0], self.layer.features)
        kept = [
            [
                self.variable(CARRY, f"layer{n}_{m}", jnp.zeros, shape, x.dtype)
                for m in range(1, self.layer.cell.states + 1)
            ]
            for n in range(1, self.depth + 1)
        ]
        before: States = tuple(tuple(leaf.value for leaf in state) for state in kept)
        x, after = stack(x, before, train=train)
        if not self.is_initializing():
            for state, new in zip(kept, after, strict=True):
                for leaf, value in zip(state, new, strict=True):
                    leaf.value = value.astype(leaf.value.dtype)
        return x


class RNNClassifier(nn.Module):
    """Recurrent layers, and a dense layer of the last one's final h: a sequence to one output.

    Attributes:
        outputs: logits of classes, or regression targets.
        layer: one of them, such as `RNN(128, LSTM())`.
        depth: how many layers.
        bidirectional: whether both ends are read, and both final states used.
        dropout: the rate between layers and before the output.
        per_sequence: whether dropout takes one mask for all steps (Gal and Ghahramani 2016).
    """

    outputs: int
    layer: RNN
    depth: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    per_sequence: bool = False

    def __post_init__(self) -> None:
        check_sizes(outputs=self.outputs, depth=self.depth)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Integer[Array, " B"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B K"]:
        """Compute logits or regression outputs; steps from `lengths` on do not count."""
        check_sequence(self, x)
        stack = StackedRNN(
            self.layer,
            self.depth,
            self.bidirectional,
            self.dropout,
            self.per_sequence,
            name="recurrent",
        )
        _, states = stack(x, lengths=lengths, train=train)
        last = states[-2:] if self.bidirectional else states[-1:]
        h = jnp.concatenate([state[0] for state in last], axis=-1)
        h = Dropout(self.dropout)(h, train)
        return OutputDense(self.outputs, name="output")(h)


def lstm_classifier(num_classes: int) -> RNNClassifier:
    """LSTM 128, LSTM 128, dense: 204,042 parameters for 10 features and 10 classes."""
    return RNNClassifier(num_classes, RNN(128, LSTM()), depth=2)


def ptb_small(vocab_size: int = 10_000) -> RNNLanguageModel:
    """Zaremba et al. 2014, non-regularised: 2 x 200, 4,653,200 parameters for 10,000 words."""
    return _zaremba(vocab_size, 200, 0.0, 0.1)


def ptb_medium(vocab_size: int = 10_000) -> RNNLanguageModel:
    """Zaremba et al. 2014: 2 x 650, dropout 0.5; 19,780,400 parameters for 10,000 words."""
    return _zaremba(vocab_size, 650, 0.5, 0.05)


def ptb_large(vocab_size: int = 10_000) -> RNNLanguageModel:
    """Zaremba et al. 2014: 2 x 1500, dropout 0.65; 66,034,000 parameters for 10,000 words."""
    return _zaremba(vocab_size, 1500, 0.65, 0.04)


def _zaremba(vocab_size: int, width: int, dropout: float, scale: float) -> RNNLanguageModel:
    """All params uniform in +-scale; two biases a gate, as in the authors' code."""
    init = uniform(scale)
    cell = LSTM(forget_bias=0.0, two_biases=True)
    layer = RNN(width, cell, kernel_init=init, recurrent_init=init, bias_init=init)
    return RNNLanguageModel(
        vocab_size,
        layer,
        depth=2,
        embedding=width,
        dropout=dropout,
        embedding_init=init,
        kernel_init=init,
        bias_init=init,
    )
