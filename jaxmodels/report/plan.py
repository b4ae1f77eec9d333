"""The page of a plan: memory, time, traffic and placement on devices that are not here."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from jaxmodels.report.page import Section
from jaxmodels.report.tables import facts, table


def plan(made: Mapping[str, Any], instead: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Sections of a plan's JSON, and of the plans that were tried where it does not fit."""
    return [
        Section("Verdict", _verdict(made)),
        *([Section("What else was tried", _instead(made, instead))] if instead else []),
        Section("Memory of a device", _memory(made)),
        Section("A step", _step(made)),
        Section("Collectives of a step", _traffic(made)),
        Section("Placement", _placement(made)),
    ]


def _verdict(made: Mapping[str, Any]) -> str:
    mesh = ", ".join(f"{axis}={size}" for axis, size in made["mesh"].items())
    return facts(
        {
            "devices": f"{made['devices']:,} x {made['chip'] or made['target']}",
            "mesh": mesh,
            "parameters": f"{made['parameters']:,}",
            "memory of a device": _fit(made),
        }
    )


def _fit(made: Mapping[str, Any]) -> str:
    if made["limit"] is None:
        return _size(made["total"])
    verdict = "fits" if made["fits"] else "does not fit"
    return f"{_size(made['total'])} of {_size(made['limit'])}: {verdict}"


def _instead(made: Mapping[str, Any], instead: Sequence[Mapping[str, Any]]) -> str:
    rows = [("as asked", _fit(made))] + [
        (" ".join(f"--{k} {v}" for k, v in other["change"].items()), _fit(other))
        for other in instead
    ]
    return table(("change", "memory of a device"), [(html.escape(a), b) for a, b in rows])


def _memory(made: Mapping[str, Any]) -> str:
    rows = [(name, _size(size)) for name, size in made["memory"].items()]
    return table(("what", "bytes"), [*rows, ("<b>all</b>", _size(made["total"]))], numbers=(1,))


def _step(made: Mapping[str, Any]) -> str:
    shown = {
        "operations": f"{made['flops']:.4g}, of which {made['matmul']:.4g} in products",
        **{f"at least, for its {k}": f"{1e3 * s:.3g} ms" for k, s in made["bounds"].items()},
    }
    for share, rates in made["rates"].items() if made["bounds"] else ():
        shown[f"at {share} of the peak"] = ", ".join(f"{r:,.0f} {u}/s" for u, r in rates.items())
    if made["uncounted"]:
        shown["not counted"] = ", ".join(made["uncounted"])
    return facts(shown)


def _traffic(made: Mapping[str, Any]) -> str:
    rows = [(c["kind"], f"{c['count']:,}", _size(c["bytes"])) for c in made["traffic"]]
    if not rows:
        return '<p class="note">None.</p>'
    return table(("collective", "times", "bytes of a device"), rows, numbers=(1, 2))


def _placement(made: Mapping[str, Any]) -> str:
    rows = [
        (
            f"<code>{html.escape(leaf['path'])}</code>",
            " × ".join(map(str, leaf["shape"])),
            _split(leaf),
            _size(leaf["bytes"]),
        )
        for leaf in made["placement"]
    ]
    head = "parameter", "shape", "split", "bytes of a device"
    return table(head, rows, numbers=(3,))


def _split(leaf: Mapping[str, Any]) -> str:
    named = [f"{size} over {axis}" for size, axis in zip(leaf["shape"], leaf["spec"]) if axis]  # noqa: B905 - a spec may be shorter
    return ", ".join(named) or "whole on every device: no axis divides it, or it is small"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
