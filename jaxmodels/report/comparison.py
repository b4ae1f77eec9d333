"""Published against measured: the first thing on the page."""

import html
from collections.abc import Mapping
from typing import Any

from jaxmodels.report.page import Section
from jaxmodels.report.tables import table
from jaxmodels.report.verdict import (
    better_by,
    reached,
    single_values,
    standard_error,
    verdict,
    written,
)


def comparison(
    published: Mapping[str, float], measured: Mapping[str, Any], source: str = ""
) -> Section:
    """Set the measured figures beside the published ones, with a verdict.

    The standard error of a share is shown where its split's confusion matrix tells how many
    examples were counted. `source` says where the published figures are from.
    """
    values = single_values(measured)
    rows = [_row(name, values, published, measured) for name in {**published, **values}]
    head = ("metric", "measured", "", "published", "difference", "")
    text = _sentence(published, values) + table(head, rows, numbers=(1, 3, 4))
    notes = [f"Published: {html.escape(source)}."] if source else []
    if any("±" in row[2] for row in rows):
        notes.append("± is the standard error of a share of the split's examples.")
    return Section("Result", f'{text}<p class="note">{" ".join(notes)}</p>')


def _row(
    name: str,
    values: Mapping[str, float],
    published: Mapping[str, float],
    measured: Mapping[str, Any],
) -> tuple[str, ...]:
    target = written(name, published[name]) if name in published else ""
    if name not in values:
        return html.escape(name), "not measured", "", target, "", ""
    value = values[name]
    cells = (html.escape(name), f"<b>{written(name, value)}</b>", _spread(name, value, measured))
    if name not in published:
        return (*cells, "", "", "")
    difference = value - published[name]
    signed = ("+" if difference > 0 else "") + written(name, difference).replace("-", "−")
    return (*cells, target, signed, _badge(name, value, published[name]))


def _spread(name: str, value: float, measured: Mapping[str, Any]) -> str:
    confusion = measured.get(f"{name.rpartition('/')[0]}/confusion")
    error = None if confusion is None else standard_error(name, value, int(confusion.sum()))
    return "" if error is None else f'<span class="quiet">± {100 * error:.2f}</span>'


def _badge(name: str, measured: float, published: float) -> str:
    kind = {True: "good", False: "bad", None: "quiet"}[reached(name, measured, published)]
    return f'<span class="badge {kind}">{verdict(name, measured, published)}</span>'


def _sentence(published: Mapping[str, float], values: Mapping[str, float]) -> str:
    """The verdict in words."""
    both = [name for name in published if name in values]
    words = [
        f"<b>{html.escape(name)} {written(name, values[name])}</b>: "
        f"{_compared(name, values[name], published[name])}."
        for name in both
    ]
    good = all(reached(name, values[name], published[name]) for name in both)
    kind = "good" if good else "bad"
    return f'<p class="verdict {kind}">{"<br>".join(words)}</p>' if words else ""


def _compared(name: str, measured: float, published: float) -> str:
    gain = better_by(name, measured, published)
    figure = f"the published {written(name, published)}"
    if gain is None:
        return f"beside {figure}"
    if not reached(name, measured, published):
        return f"does not reach {figure}"
    return f"reaches {figure}" if abs(gain) < 1e-9 else f"better than {figure}"
