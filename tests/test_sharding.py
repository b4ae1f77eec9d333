"""Meshes, rules and the feed, on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxmodels import sharding
from jaxmodels.errors import UserError


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("data=-1", {"data": 8}),
        ("data=8", {"data": 8}),
        ("data=4,fsdp=2", {"data": 4, "fsdp": 2}),
        ("fsdp=-1", {"fsdp": 8}),
        ("data=2, fsdp=-1, tensor=2", {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
)
def test_mesh_has_the_axes_that_are_written(spec, shape):
    assert dict(sharding.mesh(spec).shape) == shape


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rows=8", "unknown axis 'rows'"),
        ("data=8,data=1", "twice"),
        ("data", "size of 'data' is ''"),
        ("data=x", "size of 'data' is 'x'"),
        ("data=0", "positive number"),
        ("data=-2", "positive number"),
        ("data=-1,fsdp=-1", "only one axis can be -1"),
        ("data=3", "is 3, but there are 8 devices"),
        ("data=4", "is 4, but there are 8 devices"),
        ("data=-1,fsdp=3", "is 3, but there are 8 devices"),
    ],
)
def test_mesh_refuses(spec, words):
    with pytest.raises(UserError, match=words):
        sharding.mesh(spec)


def test_mesh_of_some_devices():
    assert sharding.mesh(devices=jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 64), P("fsdp")),
        ((64, 128), P(None, "fsdp")),
        ((64, 64), P("fsdp")),  # the first of two equals
        ((4097, 64), P(None, "fsdp")),  # the larger one is not divided
        ((4097, 63), P()),
        ((63, 64), P()),  # small
        ((4096,), P("fsdp")),
        ((), P()),
    ],
)
def test_fsdp_splits_the_largest_dimension_that_it_divides(shape, spec):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert sharding.fsdp("w", leaf, sharding.mesh("data=2,fsdp=4")) == spec
    assert sharding.fsdp("w", leaf, sharding.mesh("data=8")) == P()
    assert sharding.replicate("w", leaf, sharding.mesh("fsdp=8")) == P()


def shapes():
    leaf = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    return {"a": {"kernel": leaf}, "b": {"kernel": leaf}}


def test_match_takes_the_first_pattern_and_else_the_other_rule():
    mesh = sharding.mesh("fsdp=4,tensor=2")
    rule = sharding.match({"a/kernel$": P(None, "tensor")}, default=sharding.fsdp)
    placed = sharding.sharding_tree(shapes(), mesh, rule)
    assert placed["a"]["kernel"].spec == P(None, "tensor")
    assert placed["b"]["kernel"].spec == P("fsdp")


def test_a_pattern_that_matches_nothing_is_named():
    rule = sharding.match({"a/kernel": P(), "c/kernel": P("tensor")})
    with pytest.raises(UserError, match=r"'c/kernel' matches no leaf; .* a/kernel, b/kernel"):
        sharding.sharding_tree(shapes(), sharding.mesh(), rule)


def test_a_spec_that_does_not_fit_names_the_leaf():
    rule = sharding.match({"a/kernel": P("fsdp")})
    with pytest.raises(UserError, match=r"a/kernel of shape \(127, 64\)"):
        sharding.sharding_tree(
            {"a": {"kernel": jax.ShapeDtypeStruct((127, 64), jnp.float32)}},
            sharding.mesh("fsdp=8"),
            rule,
        )


class Counted:
    """Batch n is full of the number n; notes what was read."""

    batch_size = 16

    def __init__(self):
        self.read = []

    def iterate(self, start, stop, rows=None):
        assert rows is None
        for n in range(start, stop):
            self.read.append(n)
            yield {"x": np.full((16, 3), n, np.float32), "label": np.arange(16)}


@pytest.mark.parametrize("spec", ["data=8", "data=2,fsdp=4", "fsdp=4,tensor=2", "tensor=8"])
def test_stream_feeds_whole_batches_two_ahead(spec):
    batches = Counted()
    stream = sharding.prefetch_to_devices(batches, sharding.mesh(spec), 3, 9)
    first = next(stream)
    assert batches.read == [3, 4, 5]
    np.testing.assert_array_equal(first["x"], np.full((16, 3), 3))
    np.testing.assert_array_equal(first["label"], np.arange(16))
    assert [float(batch["x"][0, 0]) for batch in stream] == [4, 5, 6, 7, 8]


def test_stream_splits_a_batch_over_data_and_fsdp():
    mesh = sharding.mesh("data=2,fsdp=2,tensor=2")
    batch = next(sharding.prefetch_to_devices(Counted(), mesh, 0, 1))
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(4, 3)}


def test_stream_stacks_the_batches_of_a_call():
    stacks = list(sharding.prefetch_to_devices(Counted(), sharding.mesh(), 0, 6, per_call=3))
    assert [stack["x"].shape for stack in stacks] == [(3, 16, 3)] * 2
    np.testing.assert_array_equal(stacks[1]["x"][:, 0, 0], [3, 4, 5])
    assert stacks[0]["x"].addressable_shards[0].data.shape == (3, 2, 3)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch of 12 .* over 8 devices .* such as 16"):
        sharding.local_rows(sharding.mesh(), 12)


@pytest.mark.parametrize("given", [("localhost:1", None, None), (None, 2, 0), ("a:1", 2, None)])
def test_processes_are_described_whole_or_not_at_all(given):
    with pytest.raises(UserError, match="together or not at all"):
        sharding.initialize_distributed(*given)
