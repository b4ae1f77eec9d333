"""Workloads of the benchmark: an objective, an optimizer and a batch, by name."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from jaxmodels import data, objectives
from jaxmodels.models import causal_lm, encoder_decoder
from jaxmodels.models.cnn import ConvNet, LeNet
from jaxmodels.models.mlp import MLP
from jaxmodels.models.resnet import cifar_resnet
from jaxmodels.models.rnn import ptb_small
from jaxmodels.models.vae import mlp_vae

Shape = tuple[int, int, int]
VOCABULARIES = 7_885, 5_905
"""Vocabulary sizes of Multi30k, German and English."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training step's objective, optimizer and batch; `examples` is the number of units in it."""

    objective: Any
    optimizer: optax.GradientTransformation
    batch: dict[str, np.ndarray]
    unit: str = "examples"
    examples: int = 0


def images(shape: Shape, count: int = 10_000) -> data.Split:
    """A split of random images in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return data.split({"image": pixels, "label": np.arange(count) % 10}, "random")


def classifier(
    model: Any, shape: tuple[int, int, int], optimizer: Any, batch_size: int
) -> Workload:
    """Images of random pixels, scaled on the device."""
    batches = images(shape).batches(batch_size)
    objective = objectives.classification(model).after(batches.prepare)
    return Workload(objective, optimizer, batches[0], examples=batch_size)


def momentum() -> optax.GradientTransformation:
    """ResNet's optimizer."""
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))


def tokens(high: int, *shape: int) -> np.ndarray:
    """Random ids above the special ones."""
    return np.random.default_rng(0).integers(4, high, shape).astype(np.int32)


def lstm(batch_size: int) -> Workload:
    """The small LSTM of Penn Treebank: 20 rows of 20 words."""
    del batch_size
    batch = {"tokens": tokens(10_000, 20, 20), "targets": tokens(10_000, 20, 20)}
    optimizer = optax.chain(optax.scale(20), optax.clip_by_global_norm(5.0), optax.sgd(1.0))
    batch["first"] = np.zeros(20, bool)
    return Workload(objectives.truncated(ptb_small()), optimizer, batch, "words", 400)


def gpt(batch_size: int, make: Callable[..., Any], rows: int, length: int) -> Workload:
    """A GPT of characters with nanoGPT's optimizer."""
    del batch_size
    batch = {"tokens": tokens(65, rows, length), "targets": tokens(65, rows, length)}
    adam = optax.adamw(1e-3, b2=0.99, weight_decay=0.1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam)
    return Workload(objectives.next_token(make()), optimizer, batch, "characters", rows * length)


def translator(batch_size: int) -> Workload:
    """The Transformer of Multi30k: 64 pairs of sentences of 32 words."""
    del batch_size
    source, target = tokens(VOCABULARIES[0], 64, 32), tokens(VOCABULARIES[1], 64, 33)
    model = encoder_decoder.transformer_multi30k(*VOCABULARIES, unroll=3)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-4))
    batch = {"source": source, "target": target}
    return Workload(objectives.seq2seq(model), optimizer, batch, "words", 64 * 32)


def vae(batch_size: int) -> Workload:
    """The variational autoencoder 784-500-20-500-784."""
    pixels = np.random.default_rng(0).integers(0, 2, (batch_size, 28, 28, 1))
    batch = {"image": pixels.astype(np.float32)}
    return Workload(objectives.elbo(mlp_vae()), optax.adam(1e-3), batch, examples=batch_size)


WORKLOADS: dict[str, Callable[[int], Workload]] = {
    "mlp": lambda size: classifier(MLP((512, 512, 10)), (28, 28, 1), optax.adam(1e-3), size),
    "lenet": lambda size: classifier(LeNet(), (28, 28, 1), optax.adam(1e-3), size),
    "convnet": lambda size: classifier(ConvNet(), (28, 28, 1), optax.adam(1e-3), size),
    "resnet20": lambda size: classifier(cifar_resnet(20), (32, 32, 3), momentum(), size),
    "lstm": lstm,
    "gpt4": functools.partial(
        gpt, make=functools.partial(causal_lm.nanogpt_cpu, unroll=4), rows=12, length=64
    ),
    "gpt6": functools.partial(
        gpt, make=functools.partial(causal_lm.nanogpt, unroll=6), rows=8, length=256
    ),
    "translator": translator,
    "vae": vae,
}
