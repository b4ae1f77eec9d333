"""The plain tables of the page: parameters and settings."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxmodels.report.page import Section


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells; the columns `numbers` are set flush right."""
    kinds = [' class="number"' if n in set(numbers) else "" for n in range(len(head))]

    def line(cells: Sequence[str], tag: str) -> str:
        inner = (f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return (
        f'<div class="wide"><table><thead>{line(head, "th")}</thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(rows: Mapping[str, Any]) -> str:
    """Names and values."""
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in rows.items())
    return f'<dl class="facts">{"".join(items)}</dl>'


def parameters(rows: Iterable[tuple[str, Sequence[int], Any, int, Any]]) -> Section:
    """List the parameters: path, shape, dtype, count and placement of each, and their total."""
    rows = list(rows)
    total = sum(row[3] for row in rows)
    lines = [
        (
            f"<code>{html.escape(path)}</code>",
            html.escape(" × ".join(map(str, shape)) or "scalar"),
            html.escape(str(dtype)),
            f"{count:,}",
            html.escape(str(placement)),
        )
        for path, shape, dtype, count, placement in rows
    ]
    lines.append(("<b>total</b>", "", "", f"<b>{total:,}</b>", ""))
    head = ("parameter", "shape", "type", "count", "placement")
    text = table(head, lines, numbers=(3,))
    if len(rows) > 30:
        text = f"<details><summary>{len(rows)} arrays, {total:,} numbers</summary>{text}</details>"
    return Section("Parameters", text)


def settings(config: Mapping[str, Any]) -> Section:
    """Show a nested mapping: plain values first, then each group under its name."""
    plain = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    groups = {k: v for k, v in config.items() if isinstance(v, Mapping)}
    parts = [_group("", plain)] if plain else []
    parts += [_group(name, dict(_flat(group))) for name, group in groups.items()]
    return Section("Settings", f'<div class="groups">{"".join(parts)}</div>')


def _group(name: str, values: Mapping[str, Any]) -> str:
    heading = f"<h3>{html.escape(name.replace('_', ' '))}</h3>" if name else ""
    shown = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in values.items()}
    return f"<div>{heading}{facts(shown)}</div>"


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
