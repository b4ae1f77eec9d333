"""Every model on meshes of all kinds: the loss of one device, and on each device its share."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import objectives, sharding, train, tree
from jaxmodels.layers.cells import GRU, LSTM
from jaxmodels.layers.dense import OutputDense
from jaxmodels.layers.recurrent import RNN
from jaxmodels.models import autoencoder, causal_lm, encoder_decoder, resnet, vae
from jaxmodels.models.cnn import ConvNet, LeNet
from jaxmodels.models.hierarchical_vae import burda_vae
from jaxmodels.models.mlp import MLP
from jaxmodels.models.rnn import RNNClassifier, RNNLanguageModel
from jaxmodels.models.rnn_encoder_decoder import bahdanau
from jaxmodels.sharding import rules

MESHES = "data=8", "fsdp=8", "data=2,fsdp=2,tensor=2", "fsdp=4,sequence=2"


def image(*shape):
    pixels = np.random.default_rng(0).random((16, *shape), dtype=np.float32)
    return {"image": pixels, "label": np.arange(16, dtype=np.int32) % 8}


def tokens(T=8):
    ids = np.random.default_rng(0).integers(1, 16, (16, T + 1)).astype(np.int32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:]}


def pairs():
    ids = np.random.default_rng(0).integers(1, 16, (2, 16, 9)).astype(np.int32)
    return {"source": ids[0, :, :8], "target": ids[1]}


def carried():
    return {**tokens(), "first": np.zeros(16, bool)}


def sequences():
    x = np.random.default_rng(0).normal(size=(16, 4, 8)).astype(np.float32)
    return {"image": x, "label": np.arange(16, dtype=np.int32) % 8}


def layer(cell):
    return RNN(16, cell)


classify, reconstruct = objectives.classification, objectives.reconstruction
BASIC = resnet.BasicBlock, resnet.cifar_stem, resnet.pad_shortcut
BOTTLENECK = resnet.Bottleneck, resnet.imagenet_stem, resnet.project_shortcut
SIZES = 16, 16, 16, 2, 2, 32
TABLE = {
    "mlp": (classify(MLP((32, 16, 8))), image(8, 8, 1)),
    "lenet": (classify(LeNet(8)), image(28, 28, 1)),
    "convnet": (classify(ConvNet(8, (8, 16), 32)), image(8, 8, 1)),
    "resnet cifar": (classify(resnet.ResNet(8, (1, 1), (8, 16), *BASIC)), image(8, 8, 8)),
    "resnet imagenet": (classify(resnet.ResNet(8, (1, 1), (8, 8), *BOTTLENECK)), image(16, 16, 8)),
    "classifier": (classify(RNNClassifier(8, layer(LSTM()), bidirectional=True)), sequences()),
    "language model": (objectives.next_token(RNNLanguageModel(16, layer(GRU()), 2, 8)), tokens()),
    "carried": (objectives.truncated(RNNLanguageModel(16, layer(LSTM()), 1, 8)), carried()),
    "gru translator": (objectives.seq2seq(bahdanau(16, 16, 8, 16, 0.0)), pairs()),
    "gpt": (objectives.next_token(causal_lm.gpt2(16, 8, 16, 2, 2)), tokens()),
    "gpt chunked": (
        objectives.next_token_in_chunks(causal_lm.gpt2(16, 8, 16, 2, 2, chunk=2)),
        tokens(),
    ),
    "llama": (objectives.next_token(causal_lm.llama(16, 8, 16, 2, 4, 2, 32)), tokens()),
    "translator": (
        objectives.seq2seq(encoder_decoder.transformer(*SIZES, 0.0, output=OutputDense(16))),
        pairs(),
    ),
    "autoencoder": (
        reconstruct(autoencoder.deep_autoencoder((8, 8, 1), (32, 16), 8)),
        image(8, 8, 1),
    ),
    "conv autoencoder": (
        reconstruct(
            autoencoder.Autoencoder(
                autoencoder.ConvEncoder((8,), 16), autoencoder.ConvDecoder((8,), (8, 8, 8))
            )
        ),
        image(8, 8, 8),
    ),
    "vae": (objectives.elbo(vae.mlp_vae((8, 8, 1), (32, 16), 8)), image(8, 8, 1)),
    "conv vae": (objectives.elbo(vae.conv_vae((8, 8, 8), (8, 16), 16, 8)), image(8, 8, 8)),
    "conditional vae": (
        objectives.elbo(vae.conditional_vae(8, (8, 8, 1), (32,), 8), inputs=("image", "label")),
        image(8, 8, 1),
    ),
    "hierarchical vae": (
        objectives.iwae(burda_vae((8, 8, 1), (16, 8), ((32, 32), (16, 16))), 2),
        image(8, 8, 1),
    ),
}
ATTENTION = {"gpt", "gpt chunked", "llama", "translator"}
DENSE = ATTENTION | {"mlp", "lenet", "autoencoder", "vae", "conditional vae", "hierarchical vae"}
"""Those in which most params are in layers that `tensor` splits."""


OPTIMIZER = optax.adam(1e-2)
ONE = sharding.mesh(devices=jax.devices()[:1])


@functools.cache
def beginning(name):
    objective, batch = TABLE[name]
    return train.init(jax.random.key(0), objective, OPTIMIZER, batch, ONE, sharding.replicate)


def losses(name, mesh, steps=3):
    """The losses of a few steps, and the last state."""
    objective, batch = TABLE[name]
    begin = beginning(name)
    rule = sharding.tensor(getattr(objective.model, "tensor_dims", {}))
    placed = sharding.sharding_tree(begin, mesh, rule)
    state = jax.device_put(jax.tree.map(jnp.copy, begin), placed)  # the step's to give away
    step = train.make_step(objective, OPTIMIZER)
    found = []
    for _ in range(steps):
        state, scalars = step(state, sharding.shard_batch(batch, mesh))
        found.append(float(scalars["loss"]))
    return found, state


@functools.cache
def on_one_device(name):
    return losses(name, ONE)[0]


def cases():
    """Every model on every mesh that is for it; one of them, in turn, is not slow."""
    for n, name in enumerate(TABLE):
        meshes = [mesh for mesh in MESHES if "sequence" not in mesh or name in ATTENTION]
        for mesh in meshes:
            quick = mesh == meshes[n % len(meshes)]
            marks = [] if quick else [pytest.mark.slow]
            yield pytest.param(name, mesh, marks=marks, id=f"{name}-{mesh}")


@pytest.mark.parametrize(("name", "mesh"), list(cases()))
def test_a_mesh_changes_where_and_not_what(name, mesh, monkeypatch):
    monkeypatch.setattr(rules, "FSDP_MIN_SIZE", 1)
    mesh = sharding.mesh(mesh)
    found, state = losses(name, mesh)
    # Sums in another order differ in the last of 24 bits; Adam divides by gradients' sizes, which
    # blows that up where they are near zero.
    np.testing.assert_allclose(found, on_one_device(name), rtol=2e-4)
    whole = held = 0
    for path, leaf in tree.named_leaves((state.params, state.opt_state)):
        shards = [shard.data.size for shard in leaf.addressable_shards]
        assert shards == [leaf.size // splits(leaf)] * 8, path
        whole, held = whole + leaf.size, held + shards[0]
    split = mesh.shape.get("fsdp", 1) * (mesh.shape.get("tensor", 1) if name in DENSE else 1)
    # Biases and small kernels whose dimensions nothing divides are all that is whole.
    assert held <= (1 / split + 0.1) * whole


def splits(leaf):
    axes = [axis for axis in leaf.sharding.spec if axis is not None]
    return math.prod(leaf.sharding.mesh.shape[axis] for axis in axes)
