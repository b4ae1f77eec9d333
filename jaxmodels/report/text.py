"""Sections of sampled texts, and of translations beside their references."""

import html
import re
from collections.abc import Mapping, Sequence

from jaxmodels.report.page import Section
from jaxmodels.report.tables import table

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


def rate(tokens: int, seconds: float) -> str:
    """Such as "1,234 tokens per second"."""
    return f"{tokens / seconds:,.0f} tokens per second"


def translations(rows: Sequence[Row], note: str = "") -> Section:
    """Show source, reference and output of each row side by side."""
    cells = [[f'<span style="{WRAPPED}">{_clean(text)}</span>' for text in row] for row in rows]
    text = table(("source", "reference", "output"), cells)
    return Section("Translations", text + _note(note))


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _box(text: str) -> str:
    # A parser drops the first line end of a <pre>: this one, not the text's.
    return f'<pre style="{BOX}">\n{_clean(text)}</pre>'


def _clean(text: str) -> str:
    """Escaped; characters that no page may hold are shown as such."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "�", text))
