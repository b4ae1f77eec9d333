"""Translation datasets: a parallel corpus, its vocabularies, and its encoded splits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.data.split import Split
from jaxmodels.data.text.pairs import pair_lengths, pairs
from jaxmodels.data.text.parallel_corpora import ParallelCorpus, load_parallel_corpus
from jaxmodels.data.text.subwords import SubwordVocabulary
from jaxmodels.data.text.tokenize import detokenize, tokenize_words
from jaxmodels.data.text.vocabulary import Ids, Vocabulary
from jaxmodels.data.text.words import word_vocabulary


@dataclass(frozen=True)
class TranslationDataset:
    """A parallel corpus for training and evaluating a translation model.

    Attributes:
        source: vocabulary of the source language.
        target: vocabulary of the target language.
        pairs: encoded splits by name (`text.pairs`).
        sources: source sentences of each split.
        references: target sentences of each split, in lower case if the vocabulary is.
        to_words: decodes target ids to words separated by spaces.
        to_sentence: decodes target ids to a sentence.
    """

    source: Vocabulary
    target: Vocabulary
    pairs: Mapping[str, Split]
    sources: Mapping[str, list[str]]
    references: Mapping[str, list[str]]
    to_words: Callable[[Ids], str]
    to_sentence: Callable[[Ids], str]

    @property
    def vocabulary_files(self) -> dict[str, str]:
        """Both vocabularies as JSON by file name, for `Experiment.files`."""
        return {"source.json": self.source.to_json(), "target.json": self.target.to_json()}

    @property
    def max_length(self) -> int:
        """The largest of all splits' `pair_lengths`."""
        return max(int(pair_lengths(split).max()) for split in self.pairs.values())

    def bleu_arguments(self, split: str) -> dict[str, Any]:
        """Keyword arguments of `metrics.bleu` for a split."""
        return {
            "references": self.references[split],
            "tokenize": tokenize_words,
            "words": self.to_words,
            "text": self.to_sentence,
        }


def load_translation(
    name: str, data_dir: str | Path | None = None, min_count: int = 2
) -> TranslationDataset:
    """Load a parallel corpus by name, with word vocabularies of its training split.

    Words that occur less than `min_count` times are `<unk>`. Raises what `load_parallel_corpus`
    raises.
    """
    corpus = load_parallel_corpus(name, data_dir)
    source, target = (word_vocabulary(side, min_count, tokenize_words) for side in corpus["train"])
    return TranslationDataset(
        source,
        target,
        _encoded(corpus, source, target),
        {split: sources for split, (sources, _) in corpus.items()},
        {split: [line.lower() for line in targets] for split, (_, targets) in corpus.items()},
        to_words=target.decode,
        to_sentence=lambda ids: detokenize(target.decode(ids)),
    )


def subword_translation(
    corpus: ParallelCorpus, vocabulary: SubwordVocabulary
) -> TranslationDataset:
    """A translation dataset with one sub-word vocabulary for both languages.

    As in Vaswani et al., 2017, "Attention is all you need", section 5.1. The vocabulary is such as
    `subword_vocabulary([*sources, *targets], 8_000)` of `corpus["train"]`.
    """

    def to_words(ids: Ids) -> str:
        return " ".join(tokenize_words(vocabulary.decode(ids)))

    return TranslationDataset(
        vocabulary,
        vocabulary,
        _encoded(corpus, vocabulary, vocabulary),
        {split: sources for split, (sources, _) in corpus.items()},
        {split: targets for split, (_, targets) in corpus.items()},
        to_words=to_words,
        to_sentence=vocabulary.decode,
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


def bucket_boundaries(split: Split, buckets: int = 5) -> tuple[int, ...]:
    """Boundaries for `bucket_by_length` that give about equally full buckets (quantiles)."""
    quantiles = np.quantile(
        pair_lengths(split), np.arange(1, buckets + 1) / buckets, method="higher"
    )
    return tuple(sorted({int(length) for length in quantiles}))
