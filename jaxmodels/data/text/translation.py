"""A parallel corpus in words, ready for a translator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.data.split import Split
from jaxmodels.data.text.pairs import lengths, pairs
from jaxmodels.data.text.parallel import load_pairs
from jaxmodels.data.text.tokenize import detokenize, tokenize_words
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.data.text.words import Words, words


@dataclass(frozen=True)
class Translation:
    """The vocabularies of two languages, the splits in ids, and the references as written.

    Attributes:
        source: the vocabulary of the sources.
        target: the vocabulary of the targets.
        pairs: splits by name, as `text.pairs` makes them.
        sources: the sentences of each split.
        references: their translations, in lower case as the vocabularies are.
    """

    source: Words
    target: Words
    pairs: Mapping[str, Split]
    sources: Mapping[str, list[str]]
    references: Mapping[str, list[str]]

    @property
    def files(self) -> dict[str, str]:
        """Both vocabularies, as a run keeps them."""
        return {"source.json": self.source.to_json(), "target.json": self.target.to_json()}

    @property
    def longest(self) -> int:
        """The length that holds every pair of every split, as `lengths` counts."""
        return max(int(lengths(split).max()) for split in self.pairs.values())

    def judging(self, split: str) -> dict[str, Any]:
        """What `metrics.bleu` needs to know of a split."""
        return {
            "references": self.references[split],
            "tokenize": tokenize_words,
            "words": self.target.decode,
            "text": self.written,
        }

    def written(self, ids: Ids) -> str:
        """A translation as one would write it."""
        return detokenize(self.target.decode(ids))


def translation(name: str, data_dir: str | Path | None = None, min_count: int = 2) -> Translation:
    """Load a parallel corpus and make vocabularies of the words of its training split.

    Words that come less than `min_count` times are `<unk>`. Raises what `load_pairs` raises.
    """
    corpus = load_pairs(name, data_dir)
    source, target = (words(side, min_count, tokenize_words) for side in corpus["train"])
    made = {
        split: pairs(
            [source.encode(line) for line in sources],
            [target.encode(line) for line in targets],
            f"{name}/{split}",
        )
        for split, (sources, targets) in corpus.items()
    }
    references = {split: [line.lower() for line in corpus[split][1]] for split in corpus}
    return Translation(
        source, target, made, {split: corpus[split][0] for split in corpus}, references
    )


def boundaries(split: Split, buckets: int = 5) -> tuple[int, ...]:
    """Boundaries for `bucketed` that put about as many pairs in each bucket."""
    found = np.quantile(lengths(split), np.arange(1, buckets + 1) / buckets, method="higher")
    return tuple(sorted({int(length) for length in found}))
