"""Peak FLOP/s, memory and bandwidth of TPUs and NVIDIA GPUs, as published by the vendors.

Sources: Google's pages cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e,tpu7x}, and for the links of v3
and v4 Jouppi et al. 2023, "TPU v4: An optically reconfigurable supercomputer for machine learning
with hardware support for embeddings", table 4; NVIDIA's data sheets of the A100, H100 and H200 and
of DGX/HGX B200, an eighth for one GPU. Read in November 2026. NVIDIA's headline numbers are with
2:4 sparsity, twice the dense ones used here; both vendors add the two directions of a link.
"""

import dataclasses
from typing import Any

GIB = 2**30
"""The vendors' "GB" of memory."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak numbers of one chip.

    Attributes:
        name: short name.
        flops: peak FLOP/s of dense bfloat16 matrix products.
        memory: bytes.
        bandwidth: memory bandwidth, bytes per second.
        interconnect: bandwidth of all links together in one direction, bytes per second.
        cores: TPU cores; a jax device is the whole chip or, as on v3, one core.
    """

    name: str
    flops: float
    memory: int
    bandwidth: float
    interconnect: float
    cores: int = 1


V3 = Chip("TPU v3", 123e12, 32 * GIB, 900e9, 4 * 70e9, cores=2)
V4 = Chip("TPU v4", 275e12, 32 * GIB, 1200e9, 6 * 50e9, cores=2)
V5E = Chip("TPU v5e", 197e12, 16 * GIB, 819e9, 200e9)
V5P = Chip("TPU v5p", 459e12, 95 * GIB, 2765e9, 600e9, cores=2)
V6E = Chip("TPU v6e", 918e12, 32 * GIB, 1638e9, 400e9)
V7X = Chip("TPU7x", 2307e12, 192 * GIB, 7380e9, 600e9, cores=2)

A100_40 = Chip("A100 40 GB", 312e12, 40 * GIB, 1555e9, 300e9)
A100_80 = Chip("A100 80 GB", 312e12, 80 * GIB, 2039e9, 300e9)
A100_80_PCIE = Chip("A100 80 GB PCIe", 312e12, 80 * GIB, 1935e9, 300e9)
H100 = Chip("H100", 989e12, 80 * GIB, 3350e9, 450e9)
H100_PCIE = Chip("H100 PCIe", 756e12, 80 * GIB, 2000e9, 300e9)
H200 = Chip("H200", 989e12, 141 * GIB, 4800e9, 450e9)
B200 = Chip("B200", 2250e12, 180 * GIB, 8000e9, 900e9)

_BY_NAME = {
    **dict.fromkeys(("tpu v3", "v3"), V3),
    **dict.fromkeys(("tpu v4", "v4"), V4),
    **dict.fromkeys(("tpu v5 lite", "tpu v5e", "v5e"), V5E),
    **dict.fromkeys(("tpu v5", "tpu v5p", "v5p"), V5P),
    **dict.fromkeys(("tpu v6 lite", "tpu v6e", "v6e"), V6E),
    **dict.fromkeys(("tpu7x", "v7x"), V7X),
    **dict.fromkeys(("a100-sxm4-40gb", "a100-pcie-40gb"), A100_40),
    **dict.fromkeys(("a100-sxm4-80gb", "a100"), A100_80),
    "a100 80gb pcie": A100_80_PCIE,
    **dict.fromkeys(("h100 80gb hbm3", "h100"), H100),
    "h100 pcie": H100_PCIE,
    "h200": H200,
    "b200": B200,
}
"""Chips by jax's `device_kind` without the vendor, and by the names of topologies.

Only exact names: an "H100 NVL", or a part of a GPU ("... MIG 1g.10gb"), is another chip.
"""


def find_chip(kind: str) -> Chip | None:
    """The chip by jax's `device_kind` or a topology's name ("v5e"); None if unknown.

    The numbers are those of the whole chip; see `device_chip` for a jax device.
    """
    return _BY_NAME.get(kind.lower().removeprefix("nvidia "))


def device_chip(device: Any) -> Chip | None:
    """The peak numbers of a jax device, which is a chip or some cores of it; None if unknown."""
    chip = find_chip(device.device_kind)
    cores = getattr(device, "num_cores", None)
    if chip is None or cores is None or cores == chip.cores:
        return chip
    part = cores / chip.cores
    return dataclasses.replace(
        chip,
        flops=chip.flops * part,
        memory=int(chip.memory * part),
        bandwidth=chip.bandwidth * part,
        interconnect=chip.interconnect * part,
        cores=cores,
    )
