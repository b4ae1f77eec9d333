"""A plan (`jaxmodels.plan`) as sections of a page and as text for a terminal."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxmodels.report.page import Section
from jaxmodels.report.tables import facts, table

UNKNOWN = "unknown: a step that does not fit is not compiled"


def plan_lines(made: Mapping[str, Any]) -> str:
    """A plan's JSON as text for a terminal."""
    rows = [*_summary(made).items(), *_memory(made).items(), *_step(made).items()]
    rows += [(kind, f"{times} times, {size}") for kind, times, size in _collective_rows(made)]
    rows += [(leaf["path"], f"{_shape(leaf)}, {_split(leaf)}") for leaf in made["placement"]]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def plan(made: Mapping[str, Any], alternatives: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Sections of a plan's JSON, and of the alternatives tried where it does not fit."""
    tried = [Section("Alternatives", _alternatives(made, alternatives))] if alternatives else []
    return [
        Section("Summary", facts(_summary(made))),
        *tried,
        Section("Memory of a device", table(("use", "bytes"), _memory(made).items(), (1,))),
        Section("A step", facts(_step(made))),
        Section("Collectives of a step", _collectives(made)),
        Section("Placement", _placement(made)),
    ]


def _summary(made: Mapping[str, Any]) -> dict[str, str]:
    return {
        "target": f"{made['target']}, {made['devices']:,} x {made['chip'] or 'CPU'}",
        "mesh": ", ".join(f"{axis}={size}" for axis, size in made["mesh"].items()),
        "parameters": f"{made['parameters']:,}",
        "memory of a device": _fit(made),
    }


def change_as_options(change: Mapping[str, str]) -> str:
    """A changed option or several as they are written on the command line."""
    return " ".join(f"--{name} {value}" for name, value in change.items())


def _fit(made: Mapping[str, Any]) -> str:
    if made["memory_limit"] is None:
        return _size(made["memory_total"])
    fit = "fits" if made["fits"] else "DOES NOT FIT"
    return f"{_size(made['memory_total'])} of {_size(made['memory_limit'])}: {fit}"


def _memory(made: Mapping[str, Any]) -> dict[str, str]:
    return {name: _size(size) for name, size in made["memory"].items()}


def _step(made: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        "FLOPs": f"{made['flops']:.3g}, of which {made['matmul_flops']:.3g} in matmuls",
        "matmul FLOPs of a device": _device_matmul_flops(made),
        **{f"lower bound, {k}": f"{1e3 * s:.3g} ms" for k, s in made["lower_bounds"].items()},
    }
    if made["collectives"] is None:
        shown["collectives"] = UNKNOWN
    for share, rates in made["throughput"].items() if made["lower_bounds"] else ():
        shown[f"throughput at {share} MFU"] = ", ".join(f"{r:,.0f} {u}/s" for u, r in rates.items())
    if made["uncounted"]:
        shown["not counted"] = ", ".join(made["uncounted"])
    return shown


def _device_matmul_flops(made: Mapping[str, Any]) -> str:
    own = made["device_matmul_flops"]
    if own is None:
        return UNKNOWN
    if not own:
        return "none"
    times = own * made["devices"] / made["matmul_flops"]
    return f"{own:.3g}, {times:.2f} times an equal share"


def _collective_rows(made: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for part in made["collectives"] or ():
        yield part["kind"], f"{part['count']:,}", _size(part["bytes"])


def _alternatives(made: Mapping[str, Any], alternatives: Sequence[Mapping[str, Any]]) -> str:
    rows = [("as given", _fit(made))] + [
        (
            change_as_options(other["change"]),
            html.escape(other["error"]) if "error" in other else _fit(other),
        )
        for other in alternatives
    ]
    return table(("change", "memory of a device"), rows)


def _collectives(made: Mapping[str, Any]) -> str:
    rows = list(_collective_rows(made))
    if not rows:
        return f'<p class="note">{UNKNOWN if made["collectives"] is None else "None"}.</p>'
    return table(("collective", "count", "bytes received by a device"), rows, numbers=(1, 2))


def _placement(made: Mapping[str, Any]) -> str:
    rows = [
        (
            f"<code>{html.escape(leaf['path'])}</code>",
            _shape(leaf),
            _split(leaf),
            _size(leaf["bytes"]),
        )
        for leaf in made["placement"]
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
