"""A plan (`jaxmodels.plan`) as sections of a page and as text for a terminal."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxmodels.report.page import Section
from jaxmodels.report.tables import facts, table

UNKNOWN = "unknown: a step that does not fit is not compiled"


def plan_lines(data: Mapping[str, Any]) -> str:
    """A plan's JSON as text for a terminal."""
    rows = [*_summary(data).items(), *_memory(data).items(), *_step(data).items()]
    rows += [(kind, f"{times} times, {size}") for kind, times, size in _collective_rows(data)]
    rows += [(leaf["path"], f"{_shape(leaf)}, {_split(leaf)}") for leaf in data["placement"]]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def plan(data: Mapping[str, Any], alternatives: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Sections of a plan's JSON, and of the alternatives tried where it does not fit."""
    extra = [Section("Alternatives", _alternatives(data, alternatives))] if alternatives else []
    return [
        Section("Summary", facts(_summary(data))),
        *extra,
        Section("Memory of a device", table(("use", "bytes"), _memory(data).items(), (1,))),
        Section("A step", facts(_step(data))),
        Section("Collectives of a step", _collectives(data)),
        Section("Placement", _placement(data)),
    ]


def _summary(data: Mapping[str, Any]) -> dict[str, str]:
    return {
        "target": f"{data['target']}, {data['devices']:,} x {data['chip'] or 'CPU'}",
        "mesh": ", ".join(f"{axis}={size}" for axis, size in data["mesh"].items()),
        "parameters": f"{data['parameters']:,}",
        "memory of a device": _fit(data),
    }


def change_as_options(change: Mapping[str, str]) -> str:
    """A changed option or several as they are written on the command line."""
    return " ".join(f"--{name} {value}" for name, value in change.items())


def _fit(data: Mapping[str, Any]) -> str:
    if data["memory_limit"] is None:
        return _size(data["memory_total"])
    fit = "fits" if data["fits"] else "DOES NOT FIT"
    return f"{_size(data['memory_total'])} of {_size(data['memory_limit'])}: {fit}"


def _memory(data: Mapping[str, Any]) -> dict[str, str]:
    return {name: _size(size) for name, size in data["memory"].items()}


def _step(data: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        "FLOPs": f"{data['flops']:.3g}, of which {data['matmul_flops']:.3g} in matmuls",
        "matmul FLOPs of a device": _device_matmul_flops(data),
        **{f"lower bound, {k}": f"{1e3 * s:.3g} ms" for k, s in data["lower_bounds"].items()},
    }
    if data["collectives"] is None:
        shown["collectives"] = UNKNOWN
    for share, rates in data["throughput"].items() if data["lower_bounds"] else ():
        shown[f"throughput at {share} MFU"] = ", ".join(f"{r:,.0f} {u}/s" for u, r in rates.items())
    if data["uncounted"]:
        shown["not counted"] = ", ".join(data["uncounted"])
    return shown


def _device_matmul_flops(data: Mapping[str, Any]) -> str:
    own = data["device_matmul_flops"]
    if own is None:
        return UNKNOWN
    if not own:
        return "none"
    times = own * data["devices"] / data["matmul_flops"]
    return f"{own:.3g}, {times:.2f} times an equal share"


def _collective_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for part in data["collectives"] or ():
        yield part["kind"], f"{part['count']:,}", _size(part["bytes"])


def _alternatives(data: Mapping[str, Any], alternatives: Sequence[Mapping[str, Any]]) -> str:
    rows = [("as given", _fit(data))] + [
        (
            change_as_options(other["change"]),
            html.escape(other["error"]) if "error" in other else _fit(other),
        )
        for other in alternatives
    ]
    return table(("change", "memory of a device"), rows)


def _collectives(data: Mapping[str, Any]) -> str:
    rows = list(_collective_rows(data))
    if not rows:
        return f'<p class="note">{UNKNOWN if data["collectives"] is None else "None"}.</p>'
    return table(("collective", "count", "bytes received by a device"), rows, numbers=(1, 2))


def _placement(data: Mapping[str, Any]) -> str:
    rows = [
        (
            f"<code>{html.escape(leaf['path'])}</code>",
            _shape(leaf),
            _split(leaf),
            _size(leaf["bytes"]),
        )
        for leaf in data["placement"]
    ]
    return table(("parameter", "shape", "split", "bytes on a device"), rows, numbers=(3,))


def _shape(leaf: Mapping[str, Any]) -> str:
    return " × ".join(map(str, leaf["shape"])) or "scalar"


def _split(leaf: Mapping[str, Any]) -> str:
    pairs = zip(leaf["shape"], leaf["spec"], strict=False)  # a spec may be shorter
    split = [f"{size} over {axis}" for size, axis in pairs if axis] or ["whole"]
    return ", ".join(split + [f"not over {axis}" for axis in leaf["undivided"]])


def _size(size: int) -> str:
    for unit, name in (2**30, "GiB"), (2**20, "MiB"):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 2**10:.1f} KiB"
