"""One small inspection of every kind; as a script, shown by several processes.

`python tests/tiny_inspections.py OUT MESH COORDINATOR PROCESSES PROCESS_ID` writes the sections'
HTML to OUT.
"""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import data, inspect, sharding
from jaxmodels.models.causal_lm import gpt2
from jaxmodels.models.encoder_decoder import cross_attention, transformer
from jaxmodels.models.mlp import MLP
from jaxmodels.models.vae import mlp_vae


class Task:
    """A parallel corpus, as far as an inspection reads one: sentence n is the word n + 4."""

    max_length = 3

    def __init__(self, count):
        ids = [[n + 4] for n in range(count)]
        self.pairs = {"test": data.text.pairs(ids, ids)}
        self.sources = {"test": [f"source {n}" for n in range(count)]}
        self.references = {"test": [f"reference {n}" for n in range(count)]}
        self.source = self.target = data.text.word_vocabulary(
            " ".join(f"w{n:03}" for n in range(count))
        )

    def to_sentence(self, ids):
        return self.target.decode(ids)


def inspections():
    """Inspections by name, each with example inputs of its model's `init`."""
    digits = data.load("digits")["test"]
    images, ids = jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 4), jnp.int32)
    task = Task(20)
    vae = mlp_vae((8, 8, 1), (16,), 2)
    lm = gpt2(16, 8, 16, 1, 2)
    translator = transformer(24, 24, 16, 1, 2, 32, context=8)
    writer = inspect.text_samples(lm, [1, 2], str, length=8, temperatures=(1.0,))
    return {
        "classification": (inspect.classification(MLP((16, 10)), digits, batch_size=64), (images,)),
        "reconstruction": (inspect.reconstruction(vae, digits), (images,)),
        "latents": (inspect.latents(vae, digits), (images,)),
        "text_samples": (writer, (ids,)),
        "translations": (
            inspect.translations(translator, task, attention_fn=cross_attention),
            (ids, ids),
        ),
    }


def on_mesh(inspection, inputs, mesh):
    """Variables of the inspection's model, split over the mesh's devices."""
    key = jax.random.key(0)
    keys = {"params": key, "sample": key, "dropout": key}

    def init():
        return dict(inspection.model.init(keys, *inputs))

    shardings = sharding.sharding_tree(jax.eval_shape(init), mesh, sharding.fsdp)
    return jax.jit(init, out_shardings=shardings)()


def show(inspection, inputs, mesh):
    """The HTML of the sections by title, without what is measured by a clock."""
    sections = inspection(on_mesh(inspection, inputs, mesh), {}, mesh)
    return {s.title: re.sub(r"[\d,]+ tokens per second", "", s.html) for s in sections}


def main(out, mesh, coordinator, processes, process_id):
    sharding.initialize_distributed(coordinator, int(processes), int(process_id))
    devices = sharding.mesh(mesh)
    found = {name: show(*parts, devices) for name, parts in inspections().items()}
    Path(out).write_text(json.dumps(found))
    np.testing.assert_equal(jax.process_count(), int(processes))


if __name__ == "__main__":
    main(*sys.argv[1:])
