"""Contiguous batches of a long text, for truncated back-propagation through time (BPTT)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from jaxmodels.data.batches import check_rows, read_ahead
from jaxmodels.data.sources import NumpyBatch
from jaxmodels.data.text.token_ids import check_token_ids, check_window_length, to_int32
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.data.text.windows import targets_in_range
from jaxmodels.errors import UserError
from jaxmodels.typing import Batch, Key


def stream(
    ids: Ids, rows: int, length: int, name: str = "text/train", vocab_size: int | None = None
) -> "Stream":
    """Batches for truncated BPTT: row r continues in row r of the next batch.

    The text is cut into `rows` equal parts; batch n holds window n, `length` tokens, of each part.
    As in Zaremba et al., 2014, "Recurrent neural network regularization", the remainders are left
    out. Raises `UserError` for a text too short for one window in each part.
    """
    check_stream_size(rows, length)
    return Stream(check_token_ids(ids, name, rows * (length + 1), vocab_size), rows, length, name)


def evaluation_stream(
    ids: Ids, rows: int, length: int, name: str = "text/test", vocab_size: int | None = None
) -> "EvaluationStream":
    """Contiguous windows for evaluation: every token except the first is a target once.

    For an `Evaluation` with `carried=True` and `batch_size=rows`. The state is zero at the start of
    each part; published perplexities use one row.
    """
    check_stream_size(rows, length)
    return EvaluationStream(check_token_ids(ids, name, rows + 1, vocab_size), rows, length, name)


@dataclass(frozen=True, eq=False)
class Stream:
    """An endless stream of contiguous batches; see `stream`. Batch n depends on n only.

    Fields: `tokens`, `targets` (B, T) and `first` (B,), True in the first batch of an epoch, where
    the state is reset.
    """

    ids: np.ndarray
    rows: int
    length: int
    name: str

    def __getitem__(self, n: int) -> NumpyBatch:
        return self.read(n, np.arange(self.rows))

    def read(self, n: int, rows: np.ndarray) -> NumpyBatch:
        """Some rows of batch n: those that a host's devices hold."""
        if n < 0:
            raise UserError(f"Batches are numbered from 0; asked for batch {n}.")
        rows = check_rows(rows, self.rows)
        window = n % self.steps_per_epoch
        starts = rows * (len(self.ids) // self.rows) + window * self.length
        ids = self.ids[starts[:, None] + np.arange(self.length + 1)]
        return {
            "tokens": to_int32(ids[:, :-1]),
            "targets": to_int32(ids[:, 1:]),
            "first": np.full(len(rows), window == 0),
        }

    def iterate(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Iterator[NumpyBatch]:
        """Yield batches start..stop-1, or some rows of each."""
        rows = np.arange(self.rows) if rows is None else rows
        return read_ahead(lambda n: self.read(n, rows), start, stop, in_memory=True)

    def reseed(self, seed: int) -> "Stream":
        """The same batches, for any seed: a text has one order."""
        del seed
        return self

    def prepare(self, key: Key, batch: Batch) -> Batch:
        del key
        return batch

    @property
    def batch_size(self) -> int:
        """The number of parts of the text."""
        return self.rows

    @property
    def split(self) -> "EvaluationStream":
        """The same text for evaluation."""
        return EvaluationStream(self.ids, self.rows, self.length, self.name)

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch."""
        return batch_spec(self[0], self.rows)

    @property
    def steps_per_epoch(self) -> int:
        """The number of windows in a part."""
        return (len(self.ids) // self.rows - 1) // self.length


@dataclass(frozen=True, eq=False)
class EvaluationStream:
    """A text in `rows` contiguous parts for evaluation; see `evaluation_stream`.

    Their lengths differ by at most one target. Fields: those of `Stream`, and `valid` (B, T), False
    for padding after the end of a part.
    """

    ids: np.ndarray
    rows: int
    length: int
    name: str

    def __len__(self) -> int:
        """The number of targets."""
        return len(self.ids) - 1

    def preprocess(self, batch: Batch) -> Batch:
        return batch

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch."""
        return batch_spec(self.read(0, np.arange(1)), batch_size)

    def read(self, n: int, parts: np.ndarray) -> NumpyBatch:
        """Window n of these parts."""
        bounds = np.arange(self.rows + 1) * len(self) // self.rows
        starts = bounds[parts] + n * self.length
        window = targets_in_range(self.ids, starts, bounds[parts + 1], self.length)
        return {**window, "first": np.full(len(parts), n == 0)}

    def padded(self, batch_size: int, rows: np.ndarray | None = None) -> "PaddedStream":
        """The windows in order, with `mask` (B,), False in rows that are padding."""
        return PaddedStream(self, batch_size, rows)


@dataclass(frozen=True, eq=False)
class PaddedStream:
    """The batches of an `EvaluationStream`; their number is the same on every host."""

    split: EvaluationStream
    batch_size: int
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.batch_size < self.split.rows:
            raise UserError(
                f"{self.split.name} has {self.split.rows} parts, one in each row of a batch; a "
                f"batch of {self.batch_size} cannot hold them. Choose {self.split.rows}."
            )

    def __len__(self) -> int:
        """The number of windows in the longest part."""
        return math.ceil(math.ceil(len(self.split) / self.split.rows) / self.split.length)

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n, or its `rows`, with `mask`."""
        if not 0 <= n < len(self):
            raise IndexError(f"{self.split.name} has {len(self)} batches; asked for {n}.")
        rows = np.arange(self.batch_size) if self.rows is None else self.rows
        rows = check_rows(rows, self.batch_size)
        mask = rows < self.split.rows
        window = self.split.read(n, np.where(mask, rows, 0))
        return {**window, "valid": window["valid"] & mask[:, None], "mask": mask}

    def __iter__(self) -> Iterator[NumpyBatch]:
        return map(self.__getitem__, range(len(self)))


def check_stream_size(rows: int, length: int) -> None:
    """Raise `UserError` unless rows and length are positive."""
    check_window_length(length)
    if rows < 1:
        raise UserError(f"The number of rows must be at least 1; it is {rows}.")


def batch_spec(batch: NumpyBatch, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch like this one, with `batch_size` rows."""
    return {
        key: jax.ShapeDtypeStruct((batch_size, *value.shape[1:]), value.dtype)
        for key, value in batch.items()
    }
