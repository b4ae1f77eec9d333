"""The sections of a trained translator."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmodels.report.attention import AttentionMap, attention
from jaxmodels.report.page import Section
from jaxmodels.report.text import rate, translations
from jaxmodels.special_tokens import BOS, EOS, truncate_at_eos

Sections = Callable[[Any, Mapping[str, Any]], list[Section]]

SHOWN, MAPS = 12, 3
"""Sentences whose translation is shown, and of how many of them the attention too."""


def translator(
    translate: Callable[[Any, Any], Any],
    look: Callable[[Any, Any, Any], Any],
    task: Any,
    split: str = "test",
) -> Sections:
    """Make `(variables, measured) -> sections`: translations, and the attention of a few of them.

    Args:
        translate: of variables and sources (B, S), ids (B, T), each row ended by `<eos>` (3).
        look: of variables, sources (B, S) and targets (B, T), attention weights (B, N, T, S).
        task: vocabularies `source` and `target`, `pairs`, `sources` and `references` by split.
        split: whose sentences are shown; a dozen, at equal distances, so that all of it is seen.

    The tokens per second are those of a second call; the first one compiles.
    """

    def sections(variables: Any, measured: Mapping[str, Any]) -> list[Section]:
        del measured
        pairs = task.pairs[split]
        shown = np.unique(np.linspace(0, len(pairs) - 1, SHOWN).astype(int))
        source = pairs.read(shown)["source"]
        outputs, seconds = _timed(lambda: truncate_at_eos(np.asarray(translate(variables, source))))
        rows = [
            (task.sources[split][n], task.references[split][n], task.written(ids))
            for n, ids in zip(shown, outputs, strict=True)
        ]
        tokens = sum(len(ids) + 1 for ids in outputs)  # <eos> among them
        note = (
            f"{len(rows)} of {len(pairs):,} sentences; {rate(tokens, seconds)}, "
            f"{len(rows)} sentences at a time."
        )
        maps = _maps(look, variables, task, source[:MAPS], outputs[:MAPS])
        return [translations(rows, note), attention(maps)]

    return sections


def _maps(
    look: Callable[[Any, Any, Any], Any],
    variables: Any,
    task: Any,
    source: np.ndarray,
    outputs: list[list[int]],
) -> list[AttentionMap]:
    """What each sentence's output looked at in its source, padding left out."""
    import jax

    looking, found = jax.jit(look), []
    for one, ids in zip(source, outputs, strict=True):
        read, written = one[one > 0], [BOS, *ids]
        weights = np.asarray(looking(variables, read[None], np.array([written], np.int32)))[0]
        queries = [task.target.tokens[i] for i in [*ids, EOS]]
        found.append(AttentionMap(weights, queries, [task.source.tokens[i] for i in read]))
    return found


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the seconds that its second call takes."""
    function()
    begun = time.perf_counter()
    return function(), time.perf_counter() - begun
