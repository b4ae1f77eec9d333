"""The energy that a machine uses, from the counters that it has, without a thread of our own."""

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
    """A count of energy that only grows, until it begins again at zero.

    Attributes:
        name: whose energy it is.
        read: the count now.
        joules: of one count.
        span: after how much it begins again at zero; None if never.
    """

    name: str
    read: Callable[[], int]
    joules: float
    span: int | None = None

    def between(self, before: int, now: int) -> float:
        """The joules between two readings, of which the second may be from the next round."""
        passed = now - before
        if passed < 0:
            # Without a span it was reset (a driver was loaded anew): what it shows is since then.
            passed = now if self.span is None else passed + self.span
        return passed * self.joules


@dataclasses.dataclass(frozen=True)
class Sensors:
    """The counters that can be read; and whose energy is not counted, with the reason."""

    counters: Sequence[Counter] = ()
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Meter:
    """Joules by counter since it was made; more than one round between two reads is not seen.

    Attributes:
        running: whether there are counters, and all could be read the last time. One that fails
            ends the measurement, not the run.
        absent: whose energy is not counted, and why.
    """

    def __init__(
        self, counters: Sequence[Counter], absent: Mapping[str, str] | None = None
    ) -> None:
        """Begin at zero."""
        self.running = bool(counters)
        self.absent = absent or {}
        self._counters = counters
        self._last = [counter.read() for counter in counters]
        self._joules = dict.fromkeys((counter.name for counter in counters), 0.0)

    def read(self) -> dict[str, float]:
        """Read all counters, if they could be read so far."""
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
            self._joules[counter.name] += counter.between(before, after)
        self._last = now


def meter(devices: Sequence[Any], powercap: Path = POWERCAP) -> Meter:
    """A meter of this machine's CPU packages, and of its GPUs if `devices` are such.

    All work of the machine is in it, that of others too.
    """
    platforms = {device.platform for device in devices}
    found = [rapl(powercap)]
    if platforms & {"gpu", "cuda"}:
        found.append(nvml())
    if "tpu" in platforms:
        found.append(Sensors(absent={"TPUs": "no counter is known"}))
    counters = [counter for sensors in found for counter in sensors.counters]
    return Meter(counters, {k: v for sensors in found for k, v in sensors.absent.items()})


def rapl(powercap: Path = POWERCAP) -> Sensors:
    """The counters of CPU packages: Linux's powercap interface to RAPL (Intel, AMD).

    Of the zones only `package-*`: cores and uncore (`intel-rapl:0:0`) are parts of one, `psys`
    contains it, and DRAM, which servers count apart, is left out since few machines have it. On
    most systems only root may read them.
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
    return Sensors(absent={"CPUs": f"{powercap} {reason}"})


def nvml(environment: Mapping[str, str] = os.environ) -> Sensors:
    """The counters of the GPUs that this process may use, of Volta or later."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return Sensors(absent={"GPUs": "nvidia-ml-py, of the extra cuda, is not installed"})
    try:
        library.nvmlInit()
        handles = _visible(library, environment.get("CUDA_VISIBLE_DEVICES"))
    except library.NVMLError as error:
        return Sensors(absent={"GPUs": f"NVML: {error}"})
    counters, absent = [], {}
    for name, handle in handles.items():
        read = functools.partial(_millijoules, library, handle)
        try:
            read()
            counters.append(Counter(f"NVML GPU {name}", read, 1e-3))
        except library.NVMLError as error:
            absent[f"GPU {name}"] = f"NVML: {error}"
    return Sensors(counters, absent)


def _visible(library: Any, chosen: str | None) -> dict[str, Any]:
    """Handles by number or UUID; a number is that on the PCI bus, as CUDA's is if told so."""
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
