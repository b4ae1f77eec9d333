"""Parallel corpora for machine translation by name: Multi30k, number words."""

import itertools
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.data import placeholders
from jaxmodels.data.text.corpora import get_split, unknown_name
from jaxmodels.data.text.files import find_text_files, read_text, text_folder
from jaxmodels.data.text.number_words import number_words
from jaxmodels.errors import UserError

Sentences = tuple[list[str], list[str]]
"""Source sentences, and their translations in the same order."""

MULTI30K_WORDS = 7_881, 5_901
"""German and English words that occur at least twice in the training pairs."""
MULTI30K_FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


@dataclass(frozen=True)
class ParallelCorpus(Mapping[str, Sentences]):
    """A parallel corpus: `train`, `validation`, `test`, each (sources, targets)."""

    name: str
    splits: Mapping[str, Sentences]

    def __post_init__(self) -> None:
        for split, (sources, targets) in self.splits.items():
            check_paired(f"{self.name}/{split}", sources, targets)
            for side, sentences in ("source", sources), ("target", targets):
                for index, sentence in enumerate(sentences):
                    if not sentence.strip():
                        raise UserError(
                            f"The {side} of pair {index} of {self.name}/{split} is empty."
                        )

    def __getitem__(self, split: str) -> Sentences:
        """The split's sources and targets; raises `MissingSplitError`."""
        return get_split(self.splits, split, self.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)


def load_parallel_corpus(name: str, data_dir: str | Path | None = None) -> ParallelCorpus:
    """Load a parallel corpus by name.

    - `multi30k`: German to English, Elliott et al., 2016, "Multi30K: multilingual English-German
      image descriptions", task 1, from plain files in `data_dir`, `JAXMODELS_TEXT_DIR` or TFDS's
      folder; `test` is test_2016_flickr;
    - `numbers`: number words, German to English, without a download.

    Raises `UserError` for an unknown name, and for missing data.
    """
    loaders = {"multi30k": _multi30k, "numbers": lambda _: number_words()}
    if name not in loaders:
        raise UserError(unknown_name("parallel corpus", name, loaders))
    return ParallelCorpus(name, loaders[name](data_dir))


def check_paired(name: str, sources: Sized, targets: Sized) -> None:
    """Raise `UserError` unless there are equally many sources and targets, at least one."""
    counts = len(sources), len(targets)
    if counts[0] != counts[1] or not counts[0]:
        raise UserError(
            f"{name} has {counts[0]:,} sources and {counts[1]:,} targets; expected equal "
            f"numbers, at least one. Is a file truncated?"
        )


def _multi30k(data_dir: str | Path | None) -> dict[str, Sentences]:
    files = [f"{file}.{side}" for file in MULTI30K_FILES.values() for side in ("de", "en")]
    if placeholders.placeholders_enabled() and text_folder("multi30k", files, data_dir) is None:
        sources, targets = (placeholders.sentences(n, longest=44) for n in MULTI30K_WORDS)
        repeated = itertools.islice(itertools.cycle(targets), len(sources))
        return dict.fromkeys(MULTI30K_FILES, (sources, list(repeated)))
    folder = find_text_files("multi30k", files, data_dir, "numbers")
    return {
        split: (_lines(folder / f"{file}.de"), _lines(folder / f"{file}.en"))
        for split, file in MULTI30K_FILES.items()
    }


def _lines(path: Path) -> list[str]:
    # Not `splitlines`, which also splits at rare characters within sentences.
    return read_text(path).removesuffix("\n").split("\n")
