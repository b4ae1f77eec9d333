"""What a language model's step sends between the chips of a TPU slice: no more than it must."""

import collections
import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmodels import flops, objectives, plan, sharding, train
from jaxmodels.models.causal_lm import gpt2
from jaxmodels.plan import hlo
from jaxmodels.plan.collectives import collective_ops
from jaxmodels.plan.matmul_flops import matmul_flops

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra: tpu)"
)

B, T, D, N, H, DEPTH = 128, 176, 256, 8, 32, 4
MODEL = gpt2(256, 2 * T, D, DEPTH, N)


CHUNKED = gpt2(1000, 2 * T, D, DEPTH, N, chunk=T // 4)


@functools.cache
def compiled(mesh, model=MODEL, make=objectives.next_token):
    """A step's products on all devices together, as traced, and the program of one device."""
    mesh = sharding.mesh(mesh, plan.target("v5e:2x4").devices)
    objective, optimizer = make(model), optax.adamw(1e-3)
    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    example = {"tokens": tokens, "targets": tokens}
    rule = sharding.tensor(model.tensor_dims)
    state = train.abstract_state(objective, optimizer, example, mesh, rule)
    batch = sharding.abstract_batch(example, mesh)
    step = train.jit_step(train.update(objective, optimizer), state)
    program = hlo.parse_hlo(step.lower(state, batch).compile().as_text())
    return flops.count(step, state, batch).matmul, program


def sent(mesh):
    """The collectives of activations: how many of each kind and shape, with all layers'."""
    found = collections.Counter()
    for part in collective_ops(compiled(mesh)[1]):
        for shape in part.shapes:
            # Activations have rows and tokens, whole or a device's; no param has.
            if {T, T // 2} & set(shape.sizes) and {B, B // 2, B // 4, B // 8} & set(shape.sizes):
                found[part.kind, tuple(n for n in shape.sizes if n > 1)] += part.times
    return found


@pytest.mark.parametrize("mesh", ["fsdp=8", "data=2,fsdp=2,tensor=2", "fsdp=4,sequence=2"])
def test_every_device_computes_its_share_of_the_products(mesh):
    counted, program = compiled(mesh)
    assert not program.unknown_loops
    assert matmul_flops(program) == counted // 8


def test_fully_sharded_only_params_and_gradients_are_sent():
    assert not sent("fsdp=8")


def test_split_heads_and_hidden_features_are_summed_twice_a_layer_each_way():
    found = sent("data=2,fsdp=2,tensor=2")
    activation = B // 4, T, D
    sums = found.pop(("all-reduce", activation))
    # Four a layer; one after the lookup and one before the output, since the vocabulary is split.
    assert sums == 4 * DEPTH + 2
    # The lookup's, whose features `fsdp` splits; and of each token, its softmax's parts.
    assert found.pop(("all-gather", activation), 0) <= 1
    assert all(shape == (B // 4, T) for _, shape in found)


def test_split_sequences_send_keys_and_values_and_no_other_activation():
    found = sent("fsdp=4,sequence=2")
    gathered = {shape: n for (kind, shape), n in found.items() if kind == "all-gather"}
    # Keys and values, forwards and again for the gradient.
    assert gathered == {(B // 4, T, N, H): 4 * DEPTH}
    others = {(kind, shape) for kind, shape in found if kind != "all-gather"}
    assert others == {("all-reduce", (B // 4, N, T, H)), ("all-reduce", (B // 4, N, H, T))}


@pytest.mark.parametrize("mesh", ["fsdp=8", "fsdp=4,sequence=2"])
def test_in_chunks_the_vocabulary_is_sent_once_and_not_for_each(mesh):
    found = collections.Counter()
    for part in collective_ops(compiled(mesh, CHUNKED, objectives.next_token_in_chunks)[1]):
        for shape in part.shapes:
            if math.prod(shape.sizes) == 1000 * D:
                found[part.kind] += part.times
    assert found["all-gather"] == 1
    # Its gradients, as output layer and as lookup, together or apart.
    assert found["all-reduce"] in (1, 2)
    assert set(found) == {"all-gather", "all-reduce"}
