"""A parallel corpus in words or sub-words, ready for a translator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.data.split import Split
from jaxmodels.data.text.pairs import lengths, pairs
from jaxmodels.data.text.parallel import ParallelCorpus, load_pairs
from jaxmodels.data.text.subwords import Subwords
from jaxmodels.data.text.tokenize import detokenize, tokenize_words
from jaxmodels.data.text.vocabulary import Ids, Vocabulary
from jaxmodels.data.text.words import words


@dataclass(frozen=True)
class Translation:
    """The vocabularies of two languages, the splits in ids, and the references as written.

    Attributes:
        source: the vocabulary of the sources.
        target: the vocabulary of the targets.
        pairs: splits by name, as `text.pairs` makes them.
        sources: the sentences of each split.
        references: their translations, in lower case if the vocabularies are.
        words: of a translation's ids, the words with spaces between them.
        written: of a translation's ids, the sentence as one would write it.
    """

    source: Vocabulary
    target: Vocabulary
    pairs: Mapping[str, Split]
    sources: Mapping[str, list[str]]
    references: Mapping[str, list[str]]
    words: Callable[[Ids], str]
    written: Callable[[Ids], str]

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
            "words": self.words,
            "text": self.written,
        }


def translation(name: str, data_dir: str | Path | None = None, min_count: int = 2) -> Translation:
    """Load a parallel corpus and make vocabularies of the words of its training split.

    Words that come less than `min_count` times are `<unk>`. Raises what `load_pairs` raises.
    """
    corpus = load_pairs(name, data_dir)
    source, target = (words(side, min_count, tokenize_words) for side in corpus["train"])
    return Translation(
        source,
        target,
        _encoded(corpus, source, target),
        {split: sources for split, (sources, _) in corpus.items()},
        {split: [line.lower() for line in targets] for split, (_, targets) in corpus.items()},
        words=target.decode,
        written=lambda ids: detokenize(target.decode(ids)),
    )


def in_subwords(corpus: ParallelCorpus, vocabulary: Subwords) -> Translation:
    """A parallel corpus in the sub-words of one vocabulary for both languages.

    As in Vaswani et al., 2017, "Attention is all you need", section 5.1; such as
    `subwords([*sources, *targets], 8_000)` of `corpus["train"]`, or `subwords_from_file(path)`.
    """

    def cut(ids: Ids) -> str:
        return " ".join(tokenize_words(vocabulary.decode(ids)))

    return Translation(
        vocabulary,
        vocabulary,
        _encoded(corpus, vocabulary, vocabulary),
        {split: sources for split, (sources, _) in corpus.items()},
        {split: targets for split, (_, targets) in corpus.items()},
        words=cut,
        written=vocabulary.decode,
    )


def _encoded(corpus: ParallelCorpus, source: Vocabulary, target: Vocabulary) -> dict[str, Split]:
    return {
        split: pairs(
            [source.encode(line) for line in sources],
            [target.encode(line) for line in targets],
            f"{corpus.name}/{split}",
        )
        for split, (sources, targets) in corpus.items()
    }


def boundaries(split: Split, buckets: int = 5) -> tuple[int, ...]:
    """Boundaries for `bucketed` that put about as many pairs in each bucket."""
    found = np.quantile(lengths(split), np.arange(1, buckets + 1) / buckets, method="higher")
    return tuple(sorted({int(length) for length in found}))
