"""Peaks of accelerators, found by jax's names."""

import types

import jax
import pytest

from jaxmodels import chips

KINDS = {
    # As `topologies.get_topology_desc` of libtpu 0.0.42 names its devices.
    "TPU v3": chips.V3,
    "TPU v4": chips.V4,
    "TPU v5 lite": chips.V5E,
    "TPU v5": chips.V5P,
    "TPU v6 lite": chips.V6E,
    "TPU7x": chips.V7X,
    # Other spellings of the same.
    "TPU v5p": chips.V5P,
    "TPU v5e": chips.V5E,
    "v5e": chips.V5E,
    "v6e": chips.V6E,
    "tpu7x": chips.V7X,
    "NVIDIA A100-SXM4-40GB": chips.A100_40,
    "NVIDIA A100-SXM4-80GB": chips.A100_80,
    "NVIDIA A100 80GB PCIe": chips.A100_80_PCIE,
    "NVIDIA H100 80GB HBM3": chips.H100,
    "NVIDIA H100 PCIe": chips.H100_PCIE,
    "NVIDIA H200": chips.H200,
    "NVIDIA B200": chips.B200,
    "H100": chips.H100,
}


@pytest.mark.parametrize("kind", KINDS)
def test_found(kind):
    assert chips.find_chip(kind) is KINDS[kind]


@pytest.mark.parametrize(
    "kind", ["cpu", "", "NVIDIA H100 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
)
def test_not_found(kind):
    assert chips.find_chip(kind) is None


def test_a_device_may_be_a_part_of_a_chip():
    def device(kind, cores):
        return types.SimpleNamespace(device_kind=kind, num_cores=cores)

    assert chips.device_chip(device("TPU v5", 2)) is chips.V5P
    assert chips.device_chip(device("TPU v5 lite", 1)) is chips.V5E
    half = chips.device_chip(device("TPU7x", 1))
    assert (half.flops, half.memory) == (chips.V7X.flops / 2, chips.V7X.memory / 2)
    assert half.interconnect == chips.V7X.interconnect / 2
    assert chips.device_chip(jax.devices("cpu")[0]) is None
    gpu = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    assert chips.device_chip(gpu) is chips.H100


def test_the_units_are_those_of_the_docstring():
    for chip in set(KINDS.values()):
        assert 1e14 < chip.flops < 1e16
        assert 1e10 < chip.memory < 1e12
        assert 1e11 < chip.bandwidth < 1e13
        assert 1e11 < chip.interconnect < 1e12
