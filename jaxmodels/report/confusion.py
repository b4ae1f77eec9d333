"""Confusion matrix and the most frequent confusions."""

import html
from collections.abc import Sequence

import numpy as np

from jaxmodels.report.images import png, signed
from jaxmodels.report.page import Section
from jaxmodels.report.tables import table


def confusion(matrix: np.ndarray, class_names: Sequence[str] | None = None) -> Section:
    """Show counts (K, K), rows the true class, columns the predicted one.

    Up to 20 classes as a table of counts, more as a picture; then the most frequent confusions.
    """
    matrix = np.asarray(matrix)
    names = list(map(str, class_names or range(len(matrix))))
    shown = _cells(matrix, names) if len(matrix) <= 20 else _picture(matrix)
    return Section("Confusion", f'<div class="beside">{shown}{_pairs(matrix, names)}</div>')


def _shares(matrix: np.ndarray) -> np.ndarray:
    """Of each row's examples."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _strength(matrix: np.ndarray) -> np.ndarray:
    """How strongly a mistake is coloured, 0 to 1: the root makes single mistakes visible.

    Full strength is the most frequent mistake, or a tenth of a class where all are rarer.
    """
    wrong = _shares(matrix) * (1 - np.eye(len(matrix)))
    return np.sqrt(wrong / max(wrong.max(initial=0.0), 0.1))


def _cells(matrix: np.ndarray, names: list[str]) -> str:
    strength = _strength(matrix)
    head = "".join(f"<th><span>{html.escape(name)}</span></th>" for name in names)
    rows = [f'<tr><td></td><td class="axis" colspan="{len(names)}">predicted</td></tr>']
    rows.append(f'<tr><th class="axis">true</th>{head}</tr>')
    for n, name in enumerate(names):
        cells = (_cell(int(c), n == k, strength[n, k]) for k, c in enumerate(matrix[n]))
        rows.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
    kind = f"confusion {_headings(names)}".strip()
    return f'<div class="wide"><table class="{kind}">{"".join(rows)}</table></div>'


def _headings(names: list[str]) -> str:
    """Long names stand upright, so that the columns stay narrow."""
    return "upright" if max(map(len, names)) > 4 else ""


def _cell(count: int, right: bool, strength: float) -> str:
    if right:
        return f'<td class="right">{count:,}</td>'
    if count == 0:
        return '<td class="none">·</td>'
    return f'<td style="--share:{65 * strength:.0f}%" class="wrong">{count:,}</td>'


def _picture(matrix: np.ndarray) -> str:
    """Mistakes orange, the diagonal blue, both by their share of the row."""
    values = _strength(matrix) - np.eye(len(matrix)) * _shares(matrix)
    image = f'<img class="pixels matrix" src="{png(signed(values))}" alt="confusion matrix">'
    note = "Rows are true classes, columns predicted ones. Blue is right, orange wrong."
    return f'<div>{image}<p class="note">{note}</p></div>'


def _pairs(matrix: np.ndarray, names: list[str], largest: int = 8) -> str:
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:largest]
    pairs = [divmod(int(n), len(names)) for n in order if wrong.flat[n] > 0]
    if not pairs:
        return '<p class="note">No mistakes.</p>'
    rows = [
        (
            html.escape(names[t]),
            html.escape(names[p]),
            f"{int(matrix[t, p]):,}",
            f"{100 * _shares(matrix)[t, p]:.1f} %",
        )
        for t, p in pairs
    ]
    return table(("true", "taken for", "times", "of class"), rows, numbers=(2, 3))
