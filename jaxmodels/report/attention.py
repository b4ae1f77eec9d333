"""Attention maps as heat maps, one per head."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmodels.report.images import png, signed
from jaxmodels.report.page import Section

CELL, LETTER = 15, 6.4  # in CSS pixels: a word's row, and a letter of the words' size
FONT = 11


class AttentionMap(NamedTuple):
    """Attention weights (N, T, S) of N heads, with the T query and S key words."""

    weights: np.ndarray
    queries: Sequence[str]
    keys: Sequence[str]


def attention(maps: Sequence[AttentionMap]) -> Section:
    """Heat maps of attention weights, one per head; full colour is a weight of 1."""
    shown = "".join(map(_heads, maps))
    note = "Rows are queries, columns keys; full colour is a weight of 1."
    return Section("Attention", f'{shown}<p class="note">{note}</p>')


def _heads(one: AttentionMap) -> str:
    expected = (len(one.queries), len(one.keys))
    if one.weights.ndim != 3 or one.weights.shape[1:] != expected:
        raise ValueError(
            f"expected weights (N, T, S) of {expected[0]} and {expected[1]} words; "
            f"they have shape {one.weights.shape}"
        )
    panels = (_panel(f"head {n}", weights, one) for n, weights in enumerate(one.weights, start=1))
    title = html.escape(" ".join(one.queries))
    return f'<h3>{title}</h3><div class="beside">{"".join(panels)}</div>'


def _panel(name: str, weights: np.ndarray, words: AttentionMap) -> str:
    left, top = (8 + LETTER * max(map(len, side)) for side in (words.queries, words.keys))
    right, bottom = left + CELL * len(words.keys), top + CELL * len(words.queries)
    size = f'x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"'
    # Transparent where the weight is 0, for light and dark pages.
    source = png(signed(np.asarray(weights, np.float32)))
    parts = [
        f'<rect {size} style="fill:none; stroke:var(--rule)"/>',
        f'<image {size} href="{source}" preserveAspectRatio="none" class="pixels"/>',
        *(_word(w, left - 5, top + CELL * (n + 0.5), "end") for n, w in enumerate(words.queries)),
        *(_upright(w, left + CELL * (n + 0.5), top - 5) for n, w in enumerate(words.keys)),
    ]
    return (
        f'<figure style="width:{right + 2:.0f}px; max-width:100%"><figcaption class="quiet">{name}'
        f'</figcaption><svg viewBox="0 0 {right + 2:g} {bottom + 2:g}" role="img">'
        f"{''.join(parts)}</svg></figure>"
    )


def _word(word: str, x: float, y: float, anchor: str, turn: str = "") -> str:
    style = f"fill:var(--muted); font-size:{FONT}px; text-anchor:{anchor}"
    place = f'x="{x:g}" y="{y:g}" dominant-baseline="central"{turn}'
    return f'<text {place} style="{style}">{html.escape(word)}</text>'


def _upright(word: str, x: float, y: float) -> str:
    return _word(word, x, y, "start", f' transform="rotate(-90 {x:g} {y:g})"')
