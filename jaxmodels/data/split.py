"""A split of a dataset: random access to examples, preprocessing, batches."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from jaxmodels.data import image
from jaxmodels.data.batches import Batches, Padded
from jaxmodels.data.shuffle import permutation
from jaxmodels.data.sources import DataError, Example, Source
from jaxmodels.errors import UserError
from jaxmodels.typing import Batch, Key


@dataclass(frozen=True, eq=False)
class Split:
    """A split of a dataset, such as `train`.

    Positions in a split are 0..len(split)-1. Indices in errors, reports and `skip` refer to the
    whole source.

    Attributes:
        source: where examples are read from.
        num_classes: the number of classes; labels are checked against it. None without labels.
        class_names: names of the classes, for reports.
        functions: the preprocessing, one after another; see `map`.
        kept: indices in the source of the examples of this split; None for all of them.
    """

    source: Source
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    functions: tuple[Callable[[Batch], Batch], ...] = (image.to_float,)
    kept: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self):
            raise UserError(f"{self.name} has no examples. Check its source, or what was skipped.")

    @property
    def name(self) -> str:
        """The source and the split, such as `mnist/train`."""
        return self.source.name

    @property
    def in_memory(self) -> bool:
        """Whether the source is in memory, or memory-mapped."""
        return self.source.in_memory

    def __len__(self) -> int:
        return len(self.source) if self.kept is None else len(self.kept)

    def __getitem__(self, position: int) -> Example:
        """One example as stored, not preprocessed."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples; asked for {position}.")
        return self.source[int(self.indices(np.array([position % len(self)]))[0])]

    def __iter__(self) -> Iterator[Example]:
        return (self[position] for position in range(len(self)))

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """The indices in the source of these positions."""
        return positions if self.kept is None else self.kept[positions]

    def read(self, positions: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Several examples, stacked, not preprocessed: numeric fields only, at most 32 bits wide.

        Raises `DataError` for an example that cannot be read, or whose label is out of range.
        """
        indices = self.indices(np.asarray(positions))
        batch = self.source.read(indices)
        if self.num_classes is not None and "label" in batch:
            check_labels(self.name, batch["label"], self.num_classes, indices)
        return batch

    def preprocess(self, batch: Batch) -> Batch:
        """Apply the preprocessing to a raw batch: pure, deterministic, traceable by jax."""
        return functools.reduce(lambda result, function: function(result), self.functions, batch)

    def map(self, function: Callable[[Batch], Batch]) -> "Split":
        """The split with `function`, batch -> batch, added to its preprocessing."""
        return replace(self, functions=(*self.functions, function))

    def without(self, indices: Iterable[int] | np.ndarray) -> "Split":
        """The split without the examples of these indices in the source."""
        skipped = np.asarray(list(indices))
        if not len(skipped):
            return self
        if skipped.dtype.kind not in "iu":
            raise UserError(
                f"Give indices of examples to skip as integers, not as {skipped.dtype}."
            )
        wrong = skipped[(skipped < 0) | (skipped >= len(self.source))]
        if len(wrong):
            raise UserError(
                f"Cannot skip example {wrong[0]} of {self.name}: it has {len(self.source)}."
            )
        kept = np.arange(len(self.source)) if self.kept is None else self.kept
        return replace(self, kept=kept[~np.isin(kept, skipped)])

    def sample(self, count: int, seed: int = 0) -> "Split":
        """A random subset of `count` examples, or all of them if there are fewer."""
        chosen = permutation(len(self), seed, 0)[:count]
        return replace(self, kept=self.indices(np.sort(chosen)))

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a raw batch."""
        return {
            key: jax.ShapeDtypeStruct((batch_size, *value.shape[1:]), value.dtype)
            for key, value in self._first.items()
        }

    def batches(
        self,
        batch_size: int,
        transform: Callable[[Key, Batch], Batch] | None = None,
        skip: Iterable[int] | np.ndarray = (),
        seed: int = 0,
    ) -> Batches:
        """Shuffled batches for training, an endless stream reshuffled every epoch.

        `transform` is random augmentation, (key, batch) -> batch, applied after the preprocessing;
        see `data.image`. `skip` are indices in the source of examples to leave out.
        """
        return Batches(self.without(skip), batch_size, transform, seed)

    def padded(self, batch_size: int, rows: np.ndarray | None = None) -> Padded:
        """Batches for evaluation: every example once, in order, padded, with a `mask`."""
        return Padded(self, batch_size, rows)

    @functools.cached_property
    def _first(self) -> dict[str, np.ndarray]:
        return self.read(np.array([0]))


def check_labels(name: str, labels: np.ndarray, classes: int, indices: np.ndarray) -> None:
    """Raise `DataError` for the first label that is not an integer in 0..classes-1."""
    if labels.dtype.kind not in "iu":
        raise UserError(f"Labels of {name} must be integers; they are {labels.dtype}.")
    if labels.min() >= 0 and labels.max() < classes:
        return
    row = np.flatnonzero(((labels < 0) | (labels >= classes)).reshape(len(labels), -1).any(1))[0]
    reason = f"has the label {labels[row]}; with {classes} classes it must be in 0..{classes - 1}."
    raise DataError(name, int(indices[row]), reason)
