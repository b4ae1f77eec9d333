"""What a model writes: samples, and translations beside their references."""

import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmodels.report.page import Section
from jaxmodels.report.tables import table

Sections = Callable[[Any, Mapping[str, Any]], list[Section]]
Row = tuple[str, str, str]

BOX = (
    "margin:0 0 .8rem; padding:.6rem .8rem; border-radius:4px; background:var(--soft); "
    "font-size:.82rem; line-height:1.45; white-space:pre-wrap; overflow-wrap:anywhere"
)
WRAPPED = "white-space:normal; min-width:9rem; display:inline-block; vertical-align:top"


def samples(texts: Mapping[str, Sequence[str]], note: str = "") -> Section:
    """Show texts, those of one label under each other, the labels side by side."""
    columns = (
        f"<div><h3>{html.escape(label)}</h3>{''.join(map(_box, drawn))}</div>"
        for label, drawn in texts.items()
    )
    text = f'<div class="panels">{"".join(columns)}</div>'
    return Section("Samples", text + _note(note))


def sampling(
    sample: Callable[[Any, float], Any],
    decode: Callable[[list[int]], str],
    temperatures: Sequence[float] = (0.5, 0.8, 1.0),
) -> Sections:
    """Make `(variables, measured) -> sections`, of what a trained model writes.

    `sample(variables, temperature)` draws ids (B, T), `decode` makes a text of a row's ids. The
    tokens per second are those of the calls after the first one, which compiles.
    """

    def sections(variables: Any, measured: Mapping[str, Any]) -> list[Section]:
        del measured
        np.asarray(sample(variables, temperatures[0]))
        begun = time.perf_counter()
        drawn = {t: np.asarray(sample(variables, t)) for t in temperatures}
        seconds = time.perf_counter() - begun
        texts = {
            f"temperature {t:g}": [decode(row.tolist()) for row in ids] for t, ids in drawn.items()
        }
        tokens, rows = sum(ids.size for ids in drawn.values()), len(drawn[temperatures[0]])
        return [samples(texts, f"{rate(tokens, seconds)}, {rows} samples at a time.")]

    return sections


def rate(tokens: int, seconds: float) -> str:
    """Such as "1,234 tokens per second"."""
    return f"{tokens / seconds:,.0f} tokens per second"


def translations(rows: Sequence[Row], note: str = "") -> Section:
    """Show source, reference and output of each row side by side."""
    cells = [[f'<span style="{WRAPPED}">{_clean(text)}</span>' for text in row] for row in rows]
    text = table(("source", "reference", "output"), cells)
    return Section("Translations", text + _note(note))


def together(*pictures: Callable[[Any, Mapping[str, Any]], Sequence[Section]]) -> Sections:
    """Make `(variables, measured) -> sections`, of the sections of several in their order."""
    return lambda variables, measured: [
        section for picture in pictures for section in picture(variables, measured)
    ]


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _box(text: str) -> str:
    # A parser drops the first line end of a <pre>: this one, not the text's.
    return f'<pre style="{BOX}">\n{_clean(text)}</pre>'


def _clean(text: str) -> str:
    """Escaped; characters that no page may hold are shown as such."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "�", text))
