"""Energy use of CPUs (RAPL) and NVIDIA GPUs (NVML), from hardware counters."""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclasses.dataclass(frozen=True)
class Counter:
    """A hardware counter of energy that grows until it wraps around to zero.

    Attributes:
        name: the device, such as "RAPL package-0".
        read: returns the current count.
        joules: the energy of one count.
        range: the count at which it wraps around; None if it never does.
    """

    name: str
    read: Callable[[], int]
    joules: float
    range: int | None = None

    def joules_between(self, before: int, now: int) -> float:
        """Joules between two readings, between which the counter may have wrapped around once."""
        passed = now - before
        if passed < 0:
            # Without a range it was reset, as when a driver is reloaded: count from there.
            passed = now if self.range is None else passed + self.range
        return passed * self.joules


@dataclasses.dataclass(frozen=True)
class Sensors:
    """Readable counters, and devices whose energy cannot be measured, with the reason."""

    counters: Sequence[Counter] = ()
    unmeasured: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Meter:
    """Measures joules by counter from construction on.

    It must be read often enough that no counter wraps around twice in between.

    Attributes:
        running: whether there are counters and all could be read the last time. If one fails, the
            measurement ends, but not the run.
        unmeasured: devices whose energy is not measured, and why.
    """

    def __init__(
        self, counters: Sequence[Counter], unmeasured: Mapping[str, str] | None = None
    ) -> None:
        """Start at zero joules."""
        self.running = bool(counters)
        self.unmeasured = unmeasured or {}
        self._counters = counters
        self._last = [counter.read() for counter in counters]
        self._joules = dict.fromkeys((counter.name for counter in counters), 0.0)

    def read(self) -> dict[str, float]:
        """Joules by counter until now; unchanged once a counter has failed."""
        if self.running:
            self._add()
        return dict(self._joules)

    def _add(self) -> None:
        try:
            now = [counter.read() for counter in self._counters]
        except Exception:  # NVML's errors are of a package that may be absent
            self.running = False
            return
        for counter, before, after in zip(self._counters, self._last, now, strict=True):
            self._joules[counter.name] += counter.joules_between(before, after)
        self._last = now


def open_meter(devices: Sequence[Any], powercap: Path = POWERCAP) -> Meter:
    """A meter of this machine's CPU packages, and of its GPUs if `devices` are GPUs.

    It measures the whole machine, with the work of other processes.
    """
    platforms = {device.platform for device in devices}
    found = [rapl_sensors(powercap)]
    if platforms & {"gpu", "cuda"}:
        found.append(nvml_sensors())
    if "tpu" in platforms:
        found.append(Sensors(unmeasured={"TPUs": "no counter is known"}))
    counters = [counter for sensors in found for counter in sensors.counters]
    return Meter(counters, {k: v for sensors in found for k, v in sensors.unmeasured.items()})


def rapl_sensors(powercap: Path = POWERCAP) -> Sensors:
    """RAPL counters of CPU packages (Intel, AMD), through Linux's powercap interface.

    Only the zones `package-*`: cores and uncore (`intel-rapl:0:0`) are parts of a package, `psys`
    contains it, and DRAM, which some servers count separately, is left out. On most systems only
    root may read them.
    """
    found = []
    zones = [z for z in sorted(powercap.glob("intel-rapl:*")) if z.name.count(":") == 1]
    for zone in zones:
        try:
            name, span = _text(zone / "name"), int(_text(zone / "max_energy_range_uj"))
            counter = Counter(f"RAPL {name}", _reader(zone / "energy_uj"), 1e-6, span)
            counter.read()
        except (OSError, ValueError):
            continue
        if name.startswith("package"):
            found.append(counter)
    if found:
        return Sensors(found)
    reason = "is not readable by this user" if zones else "has no RAPL"
    return Sensors(unmeasured={"CPUs": f"{powercap} {reason}"})


def nvml_sensors(environment: Mapping[str, str] = os.environ) -> Sensors:
    """NVML counters of the GPUs that this process may use; they exist from Volta on."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return Sensors(unmeasured={"GPUs": "nvidia-ml-py, of the extra cuda, is not installed"})
    try:
        library.nvmlInit()
        handles = _visible_gpus(library, environment.get("CUDA_VISIBLE_DEVICES"))
    except library.NVMLError as error:
        return Sensors(unmeasured={"GPUs": f"NVML: {error}"})
    counters, unmeasured = [], {}
    for name, handle in handles.items():
        read = functools.partial(_millijoules, library, handle)
        try:
            read()
            counters.append(Counter(f"NVML GPU {name}", read, 1e-3))
        except library.NVMLError as error:
            unmeasured[f"GPU {name}"] = f"NVML: {error}"
    return Sensors(counters, unmeasured)


def _visible_gpus(library: Any, chosen: str | None) -> dict[str, Any]:
    """NVML handles by the entries of CUDA_VISIBLE_DEVICES.

    A number is in the order of the PCI bus, as CUDA's is with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if chosen is None:
        chosen = ",".join(map(str, range(library.nvmlDeviceGetCount())))
    names = filter(None, map(str.strip, chosen.split(",")))
    return {
        name: library.nvmlDeviceGetHandleByIndex(int(name))
        if name.isdecimal()
        else library.nvmlDeviceGetHandleByUUID(name)
        for name in names
    }


def _millijoules(library: Any, handle: Any) -> int:
    return int(library.nvmlDeviceGetTotalEnergyConsumption(handle))


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(_text(path))


def _text(path: Path) -> str:
    return path.read_text().strip()
