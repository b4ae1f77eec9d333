"""Cost of a run as a section of the page: device time, FLOPs, MFU, energy, money."""

import dataclasses
from collections.abc import Mapping

from jaxmodels.report.page import Section
from jaxmodels.report.progress import duration
from jaxmodels.report.tables import facts

PREFIXES = "", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """Everything that the section reports, as plain numbers.

    Attributes:
        devices: number of devices of this start.
        kind: of the devices, as jax calls them.
        starts: how often the run was started or resumed.
        device_seconds: seconds times devices, over all starts.
        steps: the last step; steps that were lost and repeated count once.
        step_flops: floating point operations of a step, on all devices together.
        step_matmul_flops: the part of them in matrix products and convolutions.
        uncounted: operations that are missing in `step_flops`.
        peak_flops: FLOP/s of a device in dense bfloat16 products; None if not published.
        joules: energy by counter.
        unmeasured: devices whose energy was not measured, and why.
        metered: the device-seconds during which energy was measured.
        processes: of the run; only process 0 measures the energy of its machine.
        price: of a device per hour, in any currency.
    """

    devices: int
    kind: str
    starts: int
    device_seconds: float
    steps: int
    step_flops: int
    step_matmul_flops: int
    uncounted: tuple[str, ...] = ()
    peak_flops: float | None = None
    joules: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unmeasured: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metered: float = 0.0
    processes: int = 1
    price: float | None = None


def cost(costs: Costs) -> Section:
    """The section that shows a run's costs."""
    note = (
        "Device time is that of all devices together, with compilation, evaluation and lost steps, "
        "but without the loading of data. FLOPs are those of the training steps, counted on their "
        "program. Utilisation (MFU) is the FLOPs of matrix products over what the devices could "
        "have computed in that time (Chowdhery et al. 2022, appendix B, but rematerialisation "
        "counts). Energy is that of whole chips, including other processes."
    )
    return Section("Cost", facts(_rows(costs)) + f'<p class="note">{note}</p>')


def cost_lines(costs: Costs) -> str:
    """The costs as text for a terminal."""
    return "\n".join(f"{name}: {value}" for name, value in _rows(costs).items())


def _rows(costs: Costs) -> dict[str, str]:
    rows = {
        "device time": _time(costs),
        "FLOPs": _flops(costs),
        "utilisation": _utilisation(costs),
        "energy": _energy(costs),
    }
    if costs.price is not None:
        hours = costs.device_seconds / 3600
        rows["cost"] = f"{costs.price * hours:,.2f}, at {costs.price:g} per device and hour"
    return rows


def _time(costs: Costs) -> str:
    seconds = f"{duration(costs.device_seconds)} ({costs.device_seconds:,.1f} s)"
    return f"{seconds}, {costs.devices} x {costs.kind}, starts: {costs.starts}"


def _flops(costs: Costs) -> str:
    total = _scaled(costs.steps * costs.step_flops, "FLOP")
    share = costs.step_matmul_flops / costs.step_flops if costs.step_flops else 0.0
    each = f"{costs.steps:,} steps of {_scaled(costs.step_flops, 'FLOP')}"
    low = f"; too low ({'; '.join(costs.uncounted)})" if costs.uncounted else ""
    return f"{total}, {each}, {100 * share:.0f} % in matrix products{low}"


def _utilisation(costs: Costs) -> str:
    if costs.peak_flops is None:
        return f"unknown: no peak is published for {costs.kind}"
    share = costs.steps * costs.step_matmul_flops / (costs.device_seconds * costs.peak_flops)
    return f"{100 * share:.3g} % of {_scaled(costs.peak_flops, 'FLOP/s')} a device in bfloat16"


def _energy(costs: Costs) -> str:
    reasons = "; ".join(f"{part}: {reason}" for part, reason in costs.unmeasured.items())
    unmeasured = f"not measured ({reasons})" if reasons else "not measured"
    if not costs.joules:
        return unmeasured
    total = sum(costs.joules.values())
    parts = ", ".join(f"{name} {_scaled(j, 'J')}" for name, j in costs.joules.items())
    part = costs.metered / costs.device_seconds
    partly = "" if part > 0.99 else f", measured in {100 * part:.0f} % of the time"
    where = f", of one machine of {costs.processes} processes" if costs.processes > 1 else ""
    text = f"{_scaled(total, 'J')}, {total / 3.6e6:.3g} kWh ({parts}){partly}{where}"
    return f"{text}; {unmeasured}" if reasons else text


def _scaled(value: int | float, unit: str) -> str:
    n = 0
    while value >= 999.5 and n + 1 < len(PREFIXES):
        value, n = value / 1000, n + 1
    return f"{value:.3g} {PREFIXES[n]}{unit}"
