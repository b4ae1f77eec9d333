"""Data sources with random access: arrays in memory, or records read one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from jaxmodels.errors import UserError

Example = Mapping[str, Any]
"""One example: arrays, numbers or texts by field name."""
NumpyBatch = dict[str, np.ndarray]
"""Examples stacked on the host: arrays (B, ...) by field name."""

_32_BIT_TYPES = {
    "int64": np.int32,
    "uint64": np.uint32,
    "float64": np.float32,
    "complex128": np.complex64,
}


class DataError(UserError):
    """An example cannot be used; has attributes `source`, `split`, `index` and `reason`."""

    def __init__(self, name: str, index: int, reason: str):
        source, slash, split = name.rpartition("/")
        self.source, self.split = (source, split) if slash else (name, "")
        self.index = index
        self.reason = reason
        super().__init__(
            f"Example {index} of {name} {reason}\n"
            f"`data.check` finds all bad examples; `batches(..., skip=report.bad)`, or "
            f"`split.without(report.bad)`, leaves them out (of arrays: numpy.delete)."
        )


@runtime_checkable
class RandomAccess(Protocol):
    """An object with `__len__` and `__getitem__` whose items are examples, as in Grain."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@runtime_checkable
class Source(Protocol):
    """What a `Split` reads from."""

    @property
    def name(self) -> str:
        """The source and the split, such as `mnist/train`."""
        ...

    in_memory: ClassVar[bool]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example:
        """The example as stored; raises `DataError` if it cannot be read."""
        ...

    def read(self, indices: np.ndarray) -> NumpyBatch:
        """Several examples, stacked: numeric fields only, 64-bit numbers in 32 bits."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples in arrays, in memory or memory-mapped.

    `broken` maps the index of an example that could not be decoded to the reason.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    broken: Mapping[int, str] = field(default_factory=dict)
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        lengths = {key: len(a) if np.ndim(a) else None for key, a in self.arrays.items()}
        if not lengths or None in lengths.values() or len(set(lengths.values())) > 1:
            raise UserError(
                f"The arrays of {self.name} must share their first axis, one row an example; "
                f"their lengths are {lengths}."
            )

    def __repr__(self) -> str:
        shapes = ", ".join(f"{key}: {a.dtype}{list(a.shape)}" for key, a in self.arrays.items())
        return f"ArraySource({self.name!r}, {{{shapes}}})"

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Example:
        self._check_not_broken(np.array([index]))
        return {key: array[index] for key, array in self.arrays.items()}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        self._check_not_broken(indices)
        fields = {key: a[indices] for key, a in self.arrays.items() if is_numeric(a.dtype)}
        return {key: to_32_bits(value, key, self.name) for key, value in fields.items()}

    def _check_not_broken(self, indices: np.ndarray) -> None:
        for index in self.broken and indices.tolist():
            if index in self.broken:
                raise DataError(self.name, index, self.broken[index])


@dataclass(frozen=True, eq=False)
class RecordSource:
    """Examples read one by one from an object with `__len__` and `__getitem__`.

    If it also has `__getitems__(indices)`, as TFDS sources have, a batch is one such call.
    """

    name: str
    items: RandomAccess
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        try:
            example = self.items[index]
        except Exception as error:
            reason = f"could not be read: {type(error).__name__}: {error}."
            raise DataError(self.name, index, reason) from error
        if not isinstance(example, Mapping):
            kind = type(example).__name__
            reason = (
                f'is of type {kind}; a dict was expected, such as {{"image": ..., "label": ...}}.'
            )
            raise DataError(self.name, index, reason)
        return example

    def read(self, indices: np.ndarray) -> NumpyBatch:
        """The examples, stacked; raises `DataError` if their shapes or dtypes differ."""
        positions = indices.tolist()
        examples = self.fetch(positions)
        first = {key: np.asarray(value) for key, value in examples[0].items()}
        numeric = [key for key, value in first.items() if is_numeric(value.dtype)]
        columns = {key: self._column(key, examples, positions) for key in numeric}
        return {key: to_32_bits(column, key, self.name) for key, column in columns.items()}

    def fetch(self, positions: list[int]) -> Sequence[Example]:
        """The examples as stored; raises `DataError` for the first that cannot be read."""
        many = getattr(self.items, "__getitems__", None)
        if many is not None:
            try:
                return many(positions)
            except Exception:
                # Reading one by one finds the example that failed.
                return [self[place] for place in positions]
        return [self[place] for place in positions]

    def _column(self, key: str, examples: Sequence[Example], positions: list[int]) -> np.ndarray:
        for place, example in zip(positions, examples, strict=True):
            if key not in example:
                raise DataError(self.name, place, f"has no {key!r}; it has {sorted(example)}.")
        values = [np.asarray(example[key]) for example in examples]
        for place, value in zip(positions, values, strict=True):
            if value.shape != values[0].shape or value.dtype != values[0].dtype:
                raise DataError(
                    self.name,
                    place,
                    f"has {key!r} of shape {value.shape} and type {value.dtype}; example "
                    f"{positions[0]} has {values[0].shape} and {values[0].dtype}. Within a "
                    f"batch they must be equal: wrap the source in an object that resizes or "
                    f"pads them.",
                )
        return np.stack(values)


def is_numeric(dtype: np.dtype) -> bool:
    """Whether jax has this dtype; fields of other dtypes, such as text, are left out of batches."""
    return dtype.kind in "biufc" or dtype.name.startswith(("bfloat", "float8", "int4", "uint4"))


def to_32_bits(values: np.ndarray, key: str, name: str) -> np.ndarray:
    """Convert 64-bit numbers to 32 bits, JAX's default; raises `UserError` for large integers."""
    kind = _32_BIT_TYPES.get(values.dtype.name)
    if kind is None:
        return values
    narrowed = values.astype(kind)
    if values.dtype.kind in "iu" and not np.array_equal(narrowed, values):
        raise UserError(
            f"{key!r} of {name} holds integers beyond 32 bits, such as {np.abs(values).max()}, "
            f"which JAX would truncate. Remove the field, or store smaller numbers."
        )
    return narrowed
