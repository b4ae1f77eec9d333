"""A subset of a dataset's classes, relabelled from 0."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxmodels.data.sources import ArraySource, Example, Source
from jaxmodels.data.split import Split
from jaxmodels.errors import UserError


def class_subset(split: Split, classes: Sequence[int]) -> Split:
    """The examples of some classes only; the n-th of `classes` becomes label n.

    Reads all labels once. Raises `UserError` for a split without classes, and for a class that is
    out of range or repeated.
    """
    if split.num_classes is None:
        raise UserError(f"{split.name} has no classes: its examples are not labelled.")
    chosen = [int(c) for c in classes]
    if len(set(chosen)) != len(chosen) or not all(0 <= c < split.num_classes for c in chosen):
        raise UserError(
            f"classes must be different numbers in 0..{split.num_classes - 1}, those of "
            f"{split.name}; got {chosen}."
        )
    table = np.full(split.num_classes, -1, np.int32)
    table[chosen] = np.arange(len(chosen))
    indices = split.indices(np.arange(len(split)))
    kept = indices[table[_labels(split.source, indices)] >= 0]
    names = split.class_names and tuple(split.class_names[c] for c in chosen)
    source: Any = Relabelled(split.source, table)
    return replace(split, source=source, num_classes=len(chosen), class_names=names, kept=kept)


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A source whose label c is `table[c]`; -1 for a class that is left out."""

    source: Source
    table: np.ndarray

    @property
    def name(self) -> str:
        """The source and the split, such as `mnist/train`."""
        return self.source.name

    @property
    def in_memory(self) -> bool:
        """Whether reading takes no time worth a thread."""
        return self.source.in_memory

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return {**example, "label": self.table[np.asarray(example["label"])]}

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Several examples, stacked."""
        batch = self.source.read(indices)
        return {**batch, "label": self.table[batch["label"]]}


def _labels(source: Source, indices: np.ndarray) -> np.ndarray:
    if isinstance(source, ArraySource):
        return np.asarray(source.arrays["label"])[indices]
    return np.array([int(source[int(index)]["label"]) for index in indices])
