"""Translations of a trained encoder-decoder, and the attention of some of them."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxmodels.generate import translator
from jaxmodels.inspect.on_mesh import gather, map_rows, split_rows
from jaxmodels.report import AttentionMap, Section, attention
from jaxmodels.report import translations as translation_table
from jaxmodels.report.text import rate
from jaxmodels.special_tokens import BOS, EOS, truncate_at_eos
from jaxmodels.typing import Model

SHOWN, MAPS = 12, 3
"""Sentences whose translation is shown, and of how many of them the attention too."""

AttentionFn = Callable[[Any, Any, Any, Any], Any]
"""`(model, variables, source (B, S), target (B, T)) -> weights (B, N, T, S)`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Translations:
    """See `translations`."""

    model: Model
    task: Any
    beam_size: int
    alpha: float
    attention_fn: AttentionFn | None
    split: str

    def __call__(self, variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> list[Section]:
        del metrics
        task, pairs = self.task, self.task.pairs[self.split]
        translate = translator(self.model, task.max_length, self.beam_size, self.alpha)
        shown = np.unique(np.linspace(0, len(pairs) - 1, SHOWN).astype(int))
        source = pairs.read(shown)["source"]

        def run() -> list[list[int]]:
            ids = gather(translate(variables, *split_rows(mesh, source)), mesh)
            return truncate_at_eos(np.asarray(ids)[: len(shown)])

        outputs, seconds = _timed(run)
        rows = [
            (task.sources[self.split][n], task.references[self.split][n], task.to_sentence(ids))
            for n, ids in zip(shown, outputs, strict=True)
        ]
        tokens = sum(len(ids) + 1 for ids in outputs)  # <eos> among them
        note = (
            f"{len(rows)} of {len(pairs):,} sentences; {rate(tokens, seconds)}, "
            f"{len(rows)} sentences at a time."
        )
        sections = [translation_table(rows, note)]
        if self.attention_fn is not None:
            maps = self._maps(variables, mesh, source[:MAPS], outputs[:MAPS])
            sections.append(attention(maps))
        return sections

    def _maps(
        self, variables: Any, mesh: Mesh, source: np.ndarray, outputs: list[list[int]]
    ) -> list[AttentionMap]:
        """What each sentence's output attends to in its source, padding left out."""
        assert self.attention_fn is not None
        fn, task = self.attention_fn, self.task
        weights_of = map_rows(functools.partial(fn, self.model), mesh)
        maps = []
        for one, ids in zip(source, outputs, strict=True):
            read, written = one[one > 0], np.array([[BOS, *ids]], np.int32)
            weights = np.asarray(weights_of(variables, read[None], written))[0]
            queries = [task.target.tokens[i] for i in [*ids, EOS]]
            maps.append(AttentionMap(weights, queries, [task.source.tokens[i] for i in read]))
        return maps


def translations(
    model: Model,
    task: Any,
    beam_size: int = 1,
    alpha: float = 0.6,
    attention_fn: AttentionFn | None = None,
    split: str = "test",
) -> Translations:
    """Show translations beside their references, and the attention of a few of them.

    Args:
        model: an encoder-decoder; see `generate.translator` for `beam_size` and `alpha`.
        task: vocabularies `source` and `target`, `pairs`, `sources` and `references` by split, and
            `max_length`, such as `data.text.load_translation` makes.
        beam_size: of the beam search; 1 is greedy.
        alpha: its length penalty.
        attention_fn: `(model, variables, source, target) -> weights (B, N, T, S)`, such as
            `models.encoder_decoder.cross_attention`; no attention is shown without.
        split: whose sentences are shown: a dozen, at equal distances, so that all of it is seen.

    The tokens per second are those of a second call; the first one compiles.
    """
    return Translations(model, task, beam_size, alpha, attention_fn, split)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the seconds that its second call takes."""
    function()
    begun = time.perf_counter()
    return function(), time.perf_counter() - begun
