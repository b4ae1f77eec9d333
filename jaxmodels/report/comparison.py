"""Results section: measured metrics beside published ones."""

import html

from jaxmodels.metric import Metric
from jaxmodels.report.page import Section
from jaxmodels.report.tables import table
from jaxmodels.report.verdict import Results


def comparison(results: Results) -> Section:
    """Set the measured metrics beside the published ones, with a verdict.

    On another data set than the published one there is none; hyperparameters that differ from the
    published setting stand beside it.
    """
    rows = [_row(results, name) for name in {**results.targets, **results.values}]
    head = ("metric", "measured", "", results.label, "difference", "")
    columns = len(head) if results.targets else 3
    numbers = tuple(n for n in (1, 3, 4) if n < columns)
    shown = table(head[:columns], [row[:columns] for row in rows], numbers=numbers)
    text = _sentence(results) + shown
    source = results.published.source if results.published else ""
    notes = [*results.notes, *([f"{results.label.capitalize()}: {source}."] if source else [])]
    if any("±" in row[2] for row in rows):
        notes.append("± is the standard error of a share of the split's examples.")
    return Section("Result", f'{text}<p class="note">{html.escape(" ".join(notes))}</p>')


def _row(results: Results, name: str) -> tuple[str, ...]:
    published = results.targets.get(name)
    target = "" if published is None else results.format(name, published)
    if name not in results.values:
        return html.escape(name), "not measured", "", target, "", ""
    value = results.values[name]
    cells = (html.escape(name), f"<b>{results.format(name, value)}</b>", _spread(results, name))
    if published is None:
        return (*cells, "", "", "")
    difference = value - published
    signed = ("+" if difference > 0 else "") + results.format(name, difference).replace("-", "−")
    return (*cells, target, signed, _badge(results, name))


def _spread(results: Results, name: str) -> str:
    error = results.standard_error(name)
    return "" if error is None else f'<span class="quiet">± {100 * error:.2f}</span>'


def _badge(results: Results, name: str) -> str:
    kind = {True: "good", False: "bad", None: "quiet"}[results.reached(name)]
    return f'<span class="badge {kind}">{html.escape(results.verdict(name))}</span>'


def _sentence(results: Results) -> str:
    """The verdict in words."""
    both = [name for name in results.targets if name in results.values]
    words = [
        f"<b>{html.escape(name)} {results.format(name, results.values[name])}</b>: "
        f"{html.escape(_compared(results, name))}."
        for name in both
    ]
    verdicts = {results.reached(name) for name in both}
    kind = "bad" if False in verdicts else "good" if True in verdicts else "quiet"
    return f'<p class="verdict {kind}">{"<br>".join(words)}</p>' if words else ""


def _compared(results: Results, name: str) -> str:
    published = results.targets[name]
    words = f"the {results.label} {results.format(name, published)}"
    if dataset := results.other_dataset(name):
        return f"measured on {dataset}, beside {words} on another data set"
    reached = results.reached(name)
    if reached is None:
        return f"beside {words}"
    if not reached:
        return f"does not reach {words}"
    gain = results.types.get(name, Metric()).gain(results.values[name], published) or 0.0
    return f"reaches {words}" if abs(gain) < 1e-9 else f"better than {words}"
