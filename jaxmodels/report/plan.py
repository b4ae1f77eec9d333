"""A plan as a page and as text: what a step takes on devices that are not here."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxmodels.report.page import Section
from jaxmodels.report.tables import facts, table

UNKNOWN = "unknown: the compiler has made no program of what does not fit"


def plan_lines(made: Mapping[str, Any]) -> str:
    """A plan's JSON as text for a terminal."""
    rows = [*_verdict(made).items(), *_memory(made).items(), *_step(made).items()]
    rows += [(kind, f"{times} times, {size}") for kind, times, size in _traffic(made)]
    rows += [(leaf["path"], f"{_shape(leaf)}, {_split(leaf)}") for leaf in made["placement"]]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def plan(made: Mapping[str, Any], instead: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Sections of a plan's JSON, and of the plans that were tried where it does not fit."""
    tried = [Section("What else was tried", _instead(made, instead))] if instead else []
    return [
        Section("Verdict", facts(_verdict(made))),
        *tried,
        Section("Memory of a device", table(("for", "bytes"), _memory(made).items(), (1,))),
        Section("A step", facts(_step(made))),
        Section("Collectives of a step", _collectives(made)),
        Section("Placement", _placement(made)),
    ]


def _verdict(made: Mapping[str, Any]) -> dict[str, str]:
    return {
        "target": f"{made['target']}, {made['devices']:,} x {made['chip'] or 'CPU'}",
        "mesh": ", ".join(f"{axis}={size}" for axis, size in made["mesh"].items()),
        "parameters": f"{made['parameters']:,}",
        "memory of a device": _fit(made),
    }


def written_change(change: Mapping[str, str]) -> str:
    """What is changed, as one would give it on the command line."""
    return " ".join(f"--{name} {value}" for name, value in change.items())


def _fit(made: Mapping[str, Any]) -> str:
    if made["limit"] is None:
        return _size(made["total"])
    verdict = "fits" if made["fits"] else "DOES NOT FIT"
    return f"{_size(made['total'])} of {_size(made['limit'])}: {verdict}"


def _memory(made: Mapping[str, Any]) -> dict[str, str]:
    return {name: _size(size) for name, size in made["memory"].items()}


def _step(made: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        "operations": f"{made['flops']:.3g}, of which {made['matmul']:.3g} in products",
        "products of a device": _products(made),
        **{f"at least, for its {k}": f"{1e3 * s:.3g} ms" for k, s in made["bounds"].items()},
    }
    if made["traffic"] is None:
        shown["collectives"] = UNKNOWN
    for share, rates in made["rates"].items() if made["bounds"] else ():
        shown[f"at {share} of the peak, if it can"] = ", ".join(
            f"{r:,.0f} {u}/s" for u, r in rates.items()
        )
    if made["uncounted"]:
        shown["not counted"] = ", ".join(made["uncounted"])
    return shown


def _products(made: Mapping[str, Any]) -> str:
    if made["products"] is None:
        return UNKNOWN
    if not made["products"]:
        return "none"
    times = made["products"] * made["devices"] / made["matmul"]
    return f"{made['products']:.3g}, {times:.2f} times an equal share"


def _traffic(made: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for part in made["traffic"] or ():
        yield part["kind"], f"{part['count']:,}", _size(part["bytes"])


def _instead(made: Mapping[str, Any], instead: Sequence[Mapping[str, Any]]) -> str:
    rows = [("as asked", _fit(made))] + [
        (
            written_change(other["change"]),
            html.escape(other["refused"]) if "refused" in other else _fit(other),
        )
        for other in instead
    ]
    return table(("change", "memory of a device"), rows)


def _collectives(made: Mapping[str, Any]) -> str:
    rows = list(_traffic(made))
    if not rows:
        return f'<p class="note">{UNKNOWN if made["traffic"] is None else "None"}.</p>'
    return table(("collective", "times", "bytes that a device receives"), rows, numbers=(1, 2))


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
    return table(("parameter", "shape", "split", "bytes of a device"), rows, numbers=(3,))


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
