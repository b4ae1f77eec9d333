"""Decode all records of a TFDS split into arrays."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmodels.data.progress_bar import track
from jaxmodels.data.sources import ArraySource, DataError, RecordSource

Fields = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype of each field; texts have no axis and dtype object."""
CHUNK = 512


def field_specs(features: Any) -> Fields | None:
    """Shapes and dtypes of TFDS features; None if a field is not an array of fixed shape."""
    specs = {}
    for key, feature in features.items():
        shape, dtype = feature.shape, feature.np_dtype
        if isinstance(shape, dict) or isinstance(dtype, dict) or None in shape:
            return None
        specs[key] = (shape, np.dtype(dtype))
    unsupported = any(dtype.kind not in "biuf" and shape for shape, dtype in specs.values())
    return None if unsupported else specs


def example_bytes(fields: Fields) -> int:
    """Bytes of a decoded example, without texts."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())


def decode_all(records: RecordSource, fields: Fields) -> ArraySource:
    """Decode all records; those that fail are zero and listed in `ArraySource.broken`."""
    # One thread: for small images two are slower (8,100 against 10,200 MNIST images a second).
    total = len(records)
    arrays = {key: _empty(total, *spec) for key, spec in fields.items()}
    broken: dict[int, str] = {}
    chunks = (range(first, min(first + CHUNK, total)) for first in range(0, total, CHUNK))
    for places in track(((len(c), c) for c in chunks), total, f"Decoding {records.name}"):
        try:
            _fill(arrays, places, records.fetch(list(places)))
        except Exception:
            _fill_singly(arrays, places, records, broken)
    # Texts become bytes of one width, which .npy files hold without pickle.
    plain = {key: a.astype(np.bytes_) if a.dtype.kind == "O" else a for key, a in arrays.items()}
    return ArraySource(records.name, plain, broken)


def _empty(total: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.full(total, b"", object) if dtype.kind == "O" else np.zeros((total, *shape), dtype)


def _fill(arrays: Mapping[str, np.ndarray], places: range, examples: Any) -> None:
    for place, example in zip(places, examples, strict=True):
        for key, array in arrays.items():
            array[place] = example[key]


def _fill_singly(
    arrays: Mapping[str, np.ndarray], places: range, records: RecordSource, broken: dict[int, str]
) -> None:
    for place in places:
        try:
            _fill(arrays, range(place, place + 1), [records[place]])
        except DataError as error:
            broken[place] = error.reason
        except Exception as error:
            broken[place] = f"could not be decoded: {type(error).__name__}: {error}."
