"""The sections of a trained translator."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmodels.report.attention import AttentionMap, attention
from jaxmodels.report.page import Section
from jaxmodels.report.text import spread, translations
from jaxmodels.tokens import BOS, EOS, until

Sections = Callable[[Any, Mapping[str, Any]], list[Section]]

MAPS = 3


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
        split: whose sentences are shown; a dozen, at equal distances.
    """

    def sections(variables: Any, measured: Mapping[str, Any]) -> list[Section]:
        del measured
        pairs = task.pairs[split]
        shown = spread(len(pairs))
        source = pairs.read(shown)["source"]
        outputs = until(np.asarray(translate(variables, source)))
        rows = [
            (task.sources[split][n], task.references[split][n], task.written(ids))
            for n, ids in zip(shown, outputs, strict=True)
        ]
        return [translations(rows), attention(_maps(variables, source[:MAPS], outputs[:MAPS]))]

    def _maps(variables: Any, source: np.ndarray, outputs: list[list[int]]) -> list[AttentionMap]:
        import jax

        looking, found = jax.jit(look), []
        for one, ids in zip(source, outputs, strict=True):
            read, written = one[one > 0], [BOS, *ids]
            weights = np.asarray(looking(variables, read[None], np.array([written], np.int32)))[0]
            queries = [task.target.tokens[i] for i in [*ids, EOS]]
            found.append(AttentionMap(weights, queries, [task.source.tokens[i] for i in read]))
        return found

    return sections
