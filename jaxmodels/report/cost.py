"""What a run has cost: time of devices, operations, energy, money."""

import dataclasses
from collections.abc import Mapping

from jaxmodels.report.page import Section
from jaxmodels.report.progress import duration
from jaxmodels.report.tables import facts

PREFIXES = "", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """All that is said about it, as plain numbers.

    Attributes:
        devices: how many, in this start.
        kind: of these.
        starts: how often the run was begun or gone on with.
        device_seconds: seconds times devices, over all starts.
        steps: that the run has got to; those that were lost and taken again count once.
        operations: floating point operations of a step, on all devices together.
        products: those of them in matrix products and convolutions.
        unknown: what `operations` is too low for.
        peak: operations per second of a device in dense bfloat16 products; None if not published.
        joules: by counter.
        absent: whose energy was not measured, and why.
        metered: the device-seconds in which energy was measured.
        processes: of which the first measured the energy of its machine.
        price: of a device for an hour, in any currency.
    """

    devices: int
    kind: str
    starts: int
    device_seconds: float
    steps: int
    operations: int
    products: int
    unknown: tuple[str, ...] = ()
    peak: float | None = None
    joules: Mapping[str, float] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metered: float = 0.0
    processes: int = 1
    price: float | None = None


def cost(costs: Costs) -> Section:
    """Show them."""
    note = (
        "Device time is that of all devices together, from when the data were loaded: compilation, "
        "evaluation and steps that were lost are in it. Operations are those of the training "
        "steps, counted on their program; utilisation is their matrix products over what the "
        "devices could have computed in that time (Chowdhery et al. 2022, appendix B, but with "
        "what is rematerialised). Energy is that of whole chips, whoever used them."
    )
    return Section("Cost", facts(_rows(costs)) + f'<p class="note">{note}</p>')


def cost_lines(costs: Costs) -> str:
    """The same for the terminal, a line for each."""
    return "\n".join(f"{name}: {value}" for name, value in _rows(costs).items())


def _rows(costs: Costs) -> dict[str, str]:
    rows = {
        "device time": _time(costs),
        "operations": _operations(costs),
        "utilisation": _utilisation(costs),
        "energy": _energy(costs),
    }
    if costs.price is not None:
        hours = costs.device_seconds / 3600
        rows["cost"] = f"{costs.price * hours:,.2f}, at {costs.price:g} for a device and hour"
    return rows


def _time(costs: Costs) -> str:
    seconds = f"{duration(costs.device_seconds)} ({costs.device_seconds:,.1f} s)"
    return f"{seconds}, {costs.devices} x {costs.kind}, starts: {costs.starts}"


def _operations(costs: Costs) -> str:
    total = _scaled(costs.steps * costs.operations, "FLOP")
    share = costs.products / costs.operations if costs.operations else 0.0
    each = f"{costs.steps:,} steps of {_scaled(costs.operations, 'FLOP')}"
    low = f"; too low, {'; '.join(costs.unknown)}" if costs.unknown else ""
    return f"{total}, {each}, {100 * share:.0f} % in matrix products{low}"


def _utilisation(costs: Costs) -> str:
    if costs.peak is None:
        return f"unknown: no peak is published for {costs.kind}"
    share = costs.steps * costs.products / (costs.device_seconds * costs.peak)
    return f"{100 * share:.3g} % of {_scaled(costs.peak, 'FLOP/s')} a device in bfloat16"


def _energy(costs: Costs) -> str:
    reasons = "; ".join(f"{part}: {reason}" for part, reason in costs.absent.items())
    absent = f"not measured ({reasons})" if reasons else "not measured"
    if not costs.joules:
        return absent
    total = sum(costs.joules.values())
    parts = ", ".join(f"{name} {_scaled(j, 'J')}" for name, j in costs.joules.items())
    part = costs.metered / costs.device_seconds
    partly = "" if part > 0.99 else f", measured in {100 * part:.0f} % of the time"
    where = f", of one machine of {costs.processes} processes" if costs.processes > 1 else ""
    found = f"{_scaled(total, 'J')}, {total / 3.6e6:.3g} kWh ({parts}){partly}{where}"
    return f"{found}; {absent}" if reasons else found


def _scaled(value: int | float, unit: str) -> str:
    n = 0
    while value >= 999.5 and n + 1 < len(PREFIXES):
        value, n = value / 1000, n + 1
    return f"{value:.3g} {PREFIXES[n]}{unit}"
