"""The table of the contract for models: a tiny one of each kind, its inputs, its loss.

`test_model_contract.py` tests each case, and `x64_models.py` traces each with 64-bit types. A new
model needs a line here; what is special about a family is in the tests file of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.kernels.pool import avg_pool
from jaxmodels.layers.attention import SelfAttention
from jaxmodels.layers.blocks import Block, Stack, pre_norm
from jaxmodels.layers.cells import GRU, LSTM, Elman, OriginalGRU
from jaxmodels.layers.distributions import Likelihood, bernoulli, gaussian, logistic
from jaxmodels.layers.embeddings import TokenEmbedding
from jaxmodels.layers.feedforward import FeedForward
from jaxmodels.layers.initializers import normal
from jaxmodels.layers.positions import alibi
from jaxmodels.layers.recurrent import RNN
from jaxmodels.losses import binary_cross_entropy, cross_entropy
from jaxmodels.models import resnet
from jaxmodels.models.autoencoder import (
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    deep_autoencoder,
    shallow_autoencoder,
)
from jaxmodels.models.causal_lm import CausalLM, gpt2, llama
from jaxmodels.models.cnn import ConvNet, LeNet
from jaxmodels.models.encoder_decoder import transformer
from jaxmodels.models.hierarchical_vae import burda_vae
from jaxmodels.models.mlp import MLP
from jaxmodels.models.resnet import BasicBlock, Bottleneck, ResNet
from jaxmodels.models.rnn import RNNClassifier, RNNLanguageModel
from jaxmodels.models.rnn_encoder_decoder import bahdanau
from jaxmodels.models.vae import conditional_vae, conv_vae, mlp_vae

B = 8
Inputs = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One model of the contract.

    Attributes:
        model: a tiny one, with dropout 0 unless it is `noisy`.
        inputs: of B = 8 rows, float32 or int32.
        loss: of outputs and inputs; `correct` says which predictions are right.
        noisy: whether training depends on the key: dropout, or draws of latents.
        predict: the outputs that depend on no key, `(model, variables, *inputs) -> array`.
        options: keyword arguments of every call.
        learnt: the outputs that must be right after training, where they are not `predict`'s.
    """

    model: Any
    inputs: Inputs
    loss: Any
    noisy: bool = False
    predict: Callable[..., Any] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    learnt: Callable[..., Any] | None = None


def row_targets(outputs: Any) -> jax.Array:
    """A target 0..2 for each row, or for each of its tokens; that of row b + 4 is that of row b."""
    targets = jnp.arange(outputs.shape[0]) % 4
    if outputs.ndim == 3:
        targets = targets[:, None] + jnp.arange(outputs.shape[1])[None]
    return targets % 3


@dataclasses.dataclass(frozen=True)
class Labels:
    """Cross-entropy with targets that depend on the row and the position only."""

    enough = 0.02

    def __call__(self, logits, *inputs):
        return cross_entropy(logits, row_targets(logits)).mean()

    def correct(self, logits, *inputs):
        return logits.argmax(-1) == row_targets(logits)


@dataclasses.dataclass(frozen=True)
class Value:
    """Squared error, with the targets of `Labels`."""

    enough = 0.02

    def __call__(self, outputs, *inputs):
        return jnp.square(outputs[:, 0] - row_targets(outputs)).mean()

    def correct(self, outputs, *inputs):
        return abs(outputs[:, 0] - row_targets(outputs)) < 0.5


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Cross-entropy of an autoencoder's logits with the image, a mean over pixels."""

    enough = 1 / 3

    def __call__(self, logits, image, *_):
        return binary_cross_entropy(logits, image).mean()

    def correct(self, predicted, image, *_):
        return (predicted > 0.5) == (image > 0.5)


@dataclasses.dataclass(frozen=True)
class Bound(Pixels):
    """Minus the ELBO in nats per pixel; a low beta, so that the images are learnt by heart."""

    likelihood: Likelihood = bernoulli
    beta: float = 0.05

    def __call__(self, draws, image, *_):
        likelihood = self.likelihood.log_prob_sum(image, draws.outputs)
        return (self.beta * draws.kl - likelihood).mean() * len(image) / image.size


def reconstruct(model: Any, variables: Any, image: Any, *conditions: Any) -> Any:
    """The images that the codes, or the means of the latents, are decoded to."""
    z = model.apply(variables, image, *conditions, method="encode")
    return model.apply(variables, z, *conditions, method="decode")


def reconstruct_from_first(model: Any, variables: Any, image: Any) -> Any:
    """The images that the means of the first of several layers of latents are decoded to.

    The bound trains these. What goes through the latents above may forget one of four images.
    """

    def reconstructed(model: Any, image: Any) -> Any:
        return model.likelihood.expected(model.decoder(model.posteriors[0](image)[0]))

    return model.apply(variables, image, method=reconstructed)


def floats(*shape: int) -> Inputs:
    return (np.random.default_rng(1).normal(size=(B, *shape)).astype(np.float32),)


def bits(*shape: int) -> Inputs:
    return (np.random.default_rng(0).integers(0, 2, (B, *shape)).astype(np.float32),)


def tokens(*lengths: int) -> Inputs:
    """Ids of 1..10, each row's first another; row b has 8 - b of them at most, then 0."""

    def one(n: int, T: int) -> np.ndarray:
        ids = np.random.default_rng(n).integers(1, 11, (B, T))
        ids[:, 0] = np.arange(1, 9)
        return np.where(np.arange(T) < 8 - np.arange(B)[:, None], ids, 0).astype(np.int32)

    return tuple(one(n, T) for n, T in enumerate(lengths))


def classifiers() -> dict[str, Case]:
    """Of vectors and images."""
    resnets = {
        "cifar": ((1, 2), BasicBlock, resnet.cifar_stem, resnet.pad_shortcut, (8, 8, 3)),
        "basic": ((1, 1), BasicBlock, resnet.imagenet_stem, resnet.project_shortcut, (17, 17, 3)),
        "bottleneck": (
            *((1, 1), Bottleneck, resnet.imagenet_stem, resnet.project_shortcut, (16, 16, 1)),
        ),
    }
    labels = {
        "mlp": Case(MLP((12, 8, 3)), floats(4, 5), Labels()),
        "mlp dropout": Case(
            MLP((64, 64, 3), dropout=0.3, activation=nn.tanh), floats(10), Labels(), True
        ),
        "mlp regressor": Case(MLP((16, 8, 1), activation=nn.silu), floats(10), Value()),
        "lenet": Case(LeNet(3), floats(28, 28, 1), Labels()),
        "lenet 1998": Case(LeNet(3, nn.tanh, avg_pool), floats(32, 32, 3), Labels()),
        "convnet": Case(ConvNet(3, (4, 8), 16), floats(8, 8, 1), Labels()),
        "convnet dropout": Case(
            ConvNet(3, (4, 8), 32, dropout=(0.1, 0.3)), floats(11, 9, 3), Labels(), True
        ),
    }
    for name, (blocks, block, stem, shortcut, shape) in resnets.items():
        model = ResNet(3, blocks, (4, 8), block, stem, shortcut)
        labels[f"resnet {name}"] = Case(model, floats(*shape), Labels())
    return labels


def recurrent() -> dict[str, Case]:
    def layer(cell: Any, width: int = 16, **options: Any) -> RNN:
        return RNN(width, cell, **options)

    return {
        "rnn classifier": Case(RNNClassifier(3, layer(LSTM()), depth=2), floats(5, 4), Labels()),
        "rnn bidirectional": Case(
            RNNClassifier(3, layer(GRU()), bidirectional=True, dropout=0.2),
            *(floats(6, 4), Labels(), True),
        ),
        "rnn regressor": Case(RNNClassifier(1, layer(Elman())), floats(4, 4), Value()),
        "rnn lm": Case(RNNLanguageModel(11, layer(LSTM()), 2, 8), tokens(6), Labels()),
        "rnn lm original": Case(
            RNNLanguageModel(11, layer(OriginalGRU()), 1, 8), tokens(4), Labels()
        ),
        "rnn lm dropout": Case(
            RNNLanguageModel(11, layer(GRU(), 32, dropout=0.2), 2, 8, 0.2, per_sequence=True),
            *(tokens(5), Labels(), True),
        ),
        "rnn translator": Case(
            bahdanau(11, 11, 8, 16, 0.1, normal(0.3)), tokens(6, 5), Labels(), True
        ),
    }


def transformers() -> dict[str, Case]:
    # Mistral's and Gemma's kind: groups of a local and a global block.
    blocks = tuple(
        Block((SelfAttention(4, 2, causal=True, window=window, bias=alibi), FeedForward(32)))
        for window in (2, None)
    )
    alternating = CausalLM(TokenEmbedding(11, 16), Stack(blocks, 4), 8)
    return {
        "alternating": Case(alternating, tokens(3), Labels()),
        "gpt2": Case(gpt2(11, 8, 16, 3, 2, 0.1), tokens(6), Labels(), True),
        # Of three tokens: it has no positions of its own, and cannot count a token's repetitions.
        "llama": Case(llama(11, 8, 16, 3, 4, 2, 24), tokens(3), Labels()),
        "transformer": Case(
            transformer(11, 11, 16, 2, 2, 32, context=8), tokens(6, 5), Labels(), True
        ),
        "transformer shared": Case(
            transformer(None, 11, 16, 2, 4, 32, 0.0, residual=pre_norm), tokens(4, 5), Labels()
        ),
    }


def autoencoders() -> dict[str, Case]:
    case = functools.partial(Case, loss=Pixels(), predict=reconstruct)
    conv = Autoencoder(ConvEncoder((8,), 16), ConvDecoder((8,), (8, 6, 3)))
    return {
        "autoencoder shallow": case(shallow_autoencoder((8, 8, 1), 16), bits(8, 8, 1)),
        "autoencoder deep": case(deep_autoencoder((8, 8, 1), (32, 16), 4), bits(8, 8, 1)),
        "autoencoder conv": case(conv, bits(8, 6, 3)),
    }


def latent() -> dict[str, Case]:
    """Models with latents."""

    def case(model: Any, inputs: Inputs, likelihood: Likelihood = bernoulli) -> Case:
        loss = Bound(likelihood)
        return Case(model, inputs, loss, True, reconstruct)

    shape = (8, 8, 1)
    # 51 and 204 of 255: at the ends 0 and 1 a scale that grows for ever is a local optimum too.
    inner = tuple(np.float32(0.2) + np.float32(0.6) * x for x in bits(4, 4, 3))
    labelled = *bits(*shape), np.arange(B, dtype=np.int32) % 4 % 3
    return {
        "vae mlp": case(mlp_vae(shape, (16,), 3), bits(*shape)),
        "vae gaussian": case(mlp_vae(shape, (16,), 3, likelihood=gaussian), bits(*shape), gaussian),
        "vae logistic": case(mlp_vae((4, 4, 3), (64,), 4, likelihood=logistic), inner, logistic),
        "vae conditional": case(conditional_vae(3, shape, (16,), 3), labelled),
        "vae conv": case(conv_vae(shape, (8, 16), 32, 4), bits(*shape)),
        "vae hierarchical": dataclasses.replace(
            case(burda_vae(shape, (6, 4), ((32, 32), (16, 16))), bits(*shape)),
            learnt=reconstruct_from_first,
        ),
    }


def table() -> dict[str, Case]:
    """All cases; each call makes its models anew."""
    return {**classifiers(), **recurrent(), **transformers(), **autoencoders(), **latent()}
