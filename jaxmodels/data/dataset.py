"""Load a dataset by name (TFDS), from arrays, or from any indexable object."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.data import image, placeholders, tfds
from jaxmodels.data.class_subset import class_subset
from jaxmodels.data.digits import digits
from jaxmodels.data.sources import ArraySource, RecordSource, Source
from jaxmodels.data.split import Split, check_labels
from jaxmodels.errors import UserError
from jaxmodels.typing import Batch


class MissingSplitError(UserError, KeyError):
    """The dataset has no split of this name."""

    __str__ = Exception.__str__


@dataclass(frozen=True, eq=False)
class Dataset(Mapping[str, Split]):
    """A dataset: a mapping from names to splits, each of which is opened on first access."""

    name: str
    openers: Mapping[str, Callable[[], Split]]
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    _opened: dict[str, Split] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {self.classes} classes"
        return f"Dataset({self.name!r}, splits {', '.join(self.openers)}{classes})"

    def __getitem__(self, key: str) -> Split:
        """The split of that name; raises `MissingSplitError`."""
        if key not in self.openers:
            names = ", ".join(self.openers)
            raise MissingSplitError(f"{self.name} has no split {key!r}; it has: {names}.")
        if key not in self._opened:
            self._opened[key] = self.openers[key]()
        return self._opened[key]

    @property
    def num_classes(self) -> int:
        """The number of classes; raises `UserError` for a dataset without labels."""
        if self.classes is None:
            raise UserError(f"{self.name} has no classes: its examples have no labels.")
        return self.classes

    def map(self, function: Callable[[Batch], Batch]) -> "Dataset":
        """The dataset with `function` added to the preprocessing of each split."""

        def opener(key: str) -> Split:
            return self[key].map(function)

        openers = {key: functools.partial(opener, key) for key in self.openers}
        return replace(self, openers=openers, _opened={})

    def only_classes(self, classes: Sequence[int]) -> "Dataset":
        """The examples of these classes only, relabelled from 0 on in the order given."""

        def opener(key: str) -> Split:
            return class_subset(self[key], classes)

        openers = {key: functools.partial(opener, key) for key in self.openers}
        names = self.class_names and tuple(self.class_names[c] for c in classes)
        count = len(classes)
        return replace(self, openers=openers, classes=count, class_names=names, _opened={})

    def __contains__(self, key: object) -> bool:
        return key in self.openers

    def __iter__(self) -> Iterator[str]:
        return iter(self.openers)

    def __len__(self) -> int:
        return len(self.openers)


def load(
    name: str,
    data_dir: str | Path | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> Dataset:
    """Load a dataset by name: the embedded `digits`, or one that TFDS has prepared as ArrayRecord.

    `data_dir` is TFDS's folder, by default `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
    `image_shape`, (H, W, C): resize images (`image.resize`). Raises `UserError` for a dataset that
    is unknown or not prepared.
    """
    if name == "digits":
        parts = digits()
        dataset = from_arrays(10, name, train=parts["train"], test=parts["test"])
    elif placeholders.placeholders_enabled() and not tfds.is_prepared(
        name, tfds.tfds_dir(data_dir)
    ):
        dataset = _placeholder_dataset(name, image_shape)
    else:
        dataset = _load_tfds(name, tfds.find_prepared(name, tfds.tfds_dir(data_dir)))
    return dataset if image_shape is None else dataset.map(image.resize(image_shape))


def from_arrays(
    num_classes: int | None = None,
    name: str = "arrays",
    class_names: tuple[str, ...] | None = None,
    **splits: Mapping[str, Any],
) -> Dataset:
    """A dataset from arrays: `from_arrays(train={"image": x, "label": y}, test=...)`.

    Images are (B, H, W, C), labels integers (B,). `num_classes` defaults to the largest label of
    the first split plus one. Raises `UserError` for arrays of different length, for an empty split,
    and for a label out of range.
    """
    if not splits:
        raise UserError('from_arrays needs at least one split: train={"image": ..., ...}.')
    made = {}
    for key, arrays in splits.items():
        made[key] = split(arrays, f"{name}/{key}", num_classes, class_names)
        num_classes = made[key].num_classes
    openers = {key: functools.partial(made.__getitem__, key) for key in made}
    return Dataset(name, openers, num_classes, next(iter(made.values())).class_names)


def split(
    source: Any,
    name: str = "data",
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Split:
    """A split from a dict of arrays, or from any object with `__len__` and `__getitem__`.

    An item is a dict of arrays or numbers, such as `{"image": (H, W, C), "label": int}`. Arrays are
    checked here, items when they are read.
    """
    opened = as_source(source, name)
    if not isinstance(opened, ArraySource):
        return Split(opened, num_classes, _names(class_names, num_classes))
    labels = opened.arrays.get("label")
    if num_classes is None and labels is not None and labels.dtype.kind in "iu" and len(labels):
        num_classes = int(labels.max()) + 1
    if num_classes is not None and labels is not None and len(labels):
        check_labels(name, labels, num_classes, np.arange(len(labels)))
    return Split(opened, num_classes, _names(class_names, num_classes))


def as_source(source: Any, name: str) -> Source:
    """The `Source` of a dict of arrays, or of an object with `__len__` and `__getitem__`."""
    if isinstance(source, Mapping):
        return ArraySource(name, {key: np.asarray(value) for key, value in source.items()})
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise UserError(
            f"A {type(source).__name__} cannot be a source of examples: it needs `__len__` and "
            f"`__getitem__`, which returns a dict of arrays or numbers."
        )
    return RecordSource(name, source)


def _load_tfds(name: str, found: tfds.PreparedDataset) -> Dataset:
    names = _names(found.class_names, found.num_classes)
    functions = (_to_float(name),)

    def opener(key: str) -> Split:
        return Split(tfds.open_split(found, key), found.num_classes, names, functions)

    openers = {key: functools.partial(opener, key) for key in found.splits}
    return Dataset(name, openers, found.num_classes, names)


def _placeholder_dataset(name: str, image_shape: tuple[int, int, int] | None) -> Dataset:
    examples, classes = placeholders.image_examples(name, image_shape)

    def opener(key: str) -> Split:
        source = RecordSource(f"{name}/{key}", examples)
        return Split(source, classes, _names(None, classes), (_to_float(name),))

    splits = "train", "validation", "test"
    return Dataset(name, {key: functools.partial(opener, key) for key in splits}, classes)


def _to_float(name: str) -> Callable[[Batch], Batch]:
    max_value = tfds.max_pixel_value(name)
    return image.to_float if max_value is None else image.rescale(max_value)


def _names(names: tuple[str, ...] | None, classes: int | None) -> tuple[str, ...] | None:
    if names is None and classes is not None:
        return tuple(str(number) for number in range(classes))
    if names is not None and classes is not None and len(names) != classes:
        raise UserError(f"There are {len(names)} class names for {classes} classes.")
    return names
