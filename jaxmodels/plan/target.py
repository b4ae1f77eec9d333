"""Compile targets by name: TPU topologies such as `v5e:4x4`, or `cpu:8`."""

import contextlib
import dataclasses
import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies

from jaxmodels import chips
from jaxmodels.errors import UserError

EXAMPLES = "v4:2x2x2, v5e:4x4, v5p:8x8x16, v6e:16x16 or cpu:8"


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for, and the peak numbers of the chip, where they are known."""

    name: str
    devices: tuple[Any, ...]
    chip: chips.Chip | None


def target(name: str) -> Target:
    """The compile target of this name; call it before anything initializes jax's devices.

    libtpu compiles for a TPU topology without a TPU; `cpu:N` is this machine as N devices.

    Raises:
        UserError: no such topology, or libtpu is not installed.
    """
    kind, _, size = name.partition(":")
    # Otherwise jax would initialize accelerators, which planning does not need.
    jax.config.update("jax_platforms", "cpu")
    devices = _cpus(name, size) if kind == "cpu" else _topology(name, kind)
    return Target(name, tuple(devices), chips.device_chip(devices[0]))


def _cpus(name: str, size: str) -> list[Any]:
    if not size.isdigit() or int(size) < 1:
        raise UserError(f"--plan {name}: expected a number of devices, such as cpu:8")
    with contextlib.suppress(RuntimeError):  # Devices are initialized already; there may be enough.
        jax.config.update("jax_num_cpu_devices", int(size))
    devices = jax.devices("cpu")
    if len(devices) < int(size):
        raise UserError(
            f"--plan {name}: jax is already initialized with {len(devices)} devices; "
            "plan in a new process"
        )
    return devices[: int(size)]


def _topology(name: str, kind: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--plan {name} compiles with libtpu, which is not installed; "
            "run with `uv run --extra tpu ...`"
        )
    # Otherwise libtpu queries the TPU VM's metadata server.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    # One process may use the chips of a machine, but several may compile.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # Both cores of a v4 chip are one device, as on real slices.
    joined = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        return topologies.get_topology_desc(name, "tpu", **joined).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(
            f"--plan {name}: libtpu knows no such topology ({error}); expected one such as "
            f"{EXAMPLES}"
        ) from None
