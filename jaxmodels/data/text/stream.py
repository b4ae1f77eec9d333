"""A text read from its beginning to its end, for models whose state goes on from batch to batch."""

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
    """Batches for truncated back-propagation through time: row r goes on in row r of the next.

    The text is cut into `rows` equal parts; batch n holds window n of each, `length` tokens.
    Mikolov et al., 2010; cut as by Zaremba et al., 2014, "Recurrent neural network regularization":
    what does not fill a part, or a window, is left out. Raises `UserError` for a text too short for
    one window in each part.
    """
    check_stream_size(rows, length)
    return Stream(check_token_ids(ids, name, rows * (length + 1), vocab_size), rows, length, name)


def evaluation_stream(
    ids: Ids, rows: int, length: int, name: str = "text/test", vocab_size: int | None = None
) -> "EvaluationStream":
    """The same for evaluation: nothing is left out, every token but the first is a target once.

    It goes to an `Evaluation` with `carried=True` and a `batch_size` of `rows`. The state begins at
    zero in each part: published perplexities are those of one row.
    """
    check_stream_size(rows, length)
    return EvaluationStream(check_token_ids(ids, name, rows + 1, vocab_size), rows, length, name)


@dataclass(frozen=True, eq=False)
class Stream:
    """Batch n as a function of n alone; after the last window all parts begin anew.

    Fields: `tokens`, `targets` (B, T) and `first` (B,), True in the first batch of an epoch.
    """

    ids: np.ndarray
    rows: int
    length: int
    name: str

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n."""
        return self.read(n, np.arange(self.rows))

    def read(self, n: int, rows: np.ndarray) -> NumpyBatch:
        """Rows of batch n: a host reads what its devices hold."""
        if n < 0:
            raise UserError(f"Batches are numbered from 0; asked for batch {n}.")
        rows = check_rows(rows, self.rows)
        window = n % self.steps_per_epoch
        starts = rows * (len(self.ids) // self.rows) + window * self.length
        found = self.ids[starts[:, None] + np.arange(self.length + 1)]
        return {
            "tokens": to_int32(found[:, :-1]),
            "targets": to_int32(found[:, 1:]),
            "first": np.full(len(rows), window == 0),
        }

    def iterate(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Iterator[NumpyBatch]:
        """Batches start..stop-1, of each the given rows."""
        rows = np.arange(self.rows) if rows is None else rows
        return read_ahead(lambda n: self.read(n, rows), start, stop, in_memory=True)

    def reseed(self, seed: int) -> "Stream":
        """The same batches: a text has one order."""
        del seed
        return self

    def prepare(self, key: Key, batch: Batch) -> Batch:
        """The batch as it is."""
        del key
        return batch

    @property
    def batch_size(self) -> int:
        """How many parts the text is cut into."""
        return self.rows

    @property
    def split(self) -> "EvaluationStream":
        """The text as an evaluation reads it."""
        return EvaluationStream(self.ids, self.rows, self.length, self.name)

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch."""
        return batch_spec(self[0], self.rows)

    @property
    def steps_per_epoch(self) -> int:
        """How many windows fit in a part."""
        return (len(self.ids) // self.rows - 1) // self.length


@dataclass(frozen=True, eq=False)
class EvaluationStream:
    """A text in `rows` parts, which differ by at most one target, and nothing left out.

    Fields: those of `Stream`, and `valid` (B, T), False where a part has ended.
    """

    ids: np.ndarray
    rows: int
    length: int
    name: str

    def __len__(self) -> int:
        """How many targets there are."""
        return len(self.ids) - 1

    def preprocess(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch."""
        return batch_spec(self.read(0, np.arange(1)), batch_size)

    def read(self, n: int, parts: np.ndarray) -> NumpyBatch:
        """Window n of these parts."""
        bounds = np.arange(self.rows + 1) * len(self) // self.rows
        starts = bounds[parts] + n * self.length
        found = targets_in_range(self.ids, starts, bounds[parts + 1], self.length)
        return {**found, "first": np.full(len(parts), n == 0)}

    def padded(self, batch_size: int, rows: np.ndarray | None = None) -> "PaddedStream":
        """The windows in order, with `mask`, False in rows beyond the parts."""
        return PaddedStream(self, batch_size, rows)


@dataclass(frozen=True, eq=False)
class PaddedStream:
    """The batches of an evaluation; their number is the same on every host."""

    split: EvaluationStream
    batch_size: int
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse batches that cannot hold a row of each part."""
        if self.batch_size < self.split.rows:
            raise UserError(
                f"{self.split.name} is cut into {self.split.rows} parts, read side by side; a "
                f"batch of {self.batch_size} cannot hold them. Choose {self.split.rows}."
            )

    def __len__(self) -> int:
        """How many windows the longest part has."""
        return math.ceil(math.ceil(len(self.split) / self.split.rows) / self.split.length)

    def __getitem__(self, n: int) -> NumpyBatch:
        """Batch n (of it the rows), with `mask`: True where the row is a part of the text."""
        if not 0 <= n < len(self):
            raise IndexError(f"{self.split.name} has {len(self)} batches; asked for {n}.")
        rows = np.arange(self.batch_size) if self.rows is None else self.rows
        rows = check_rows(rows, self.batch_size)
        mask = rows < self.split.rows
        found = self.split.read(n, np.where(mask, rows, 0))
        return {**found, "valid": found["valid"] & mask[:, None], "mask": mask}

    def __iter__(self) -> Iterator[NumpyBatch]:
        """The batches in order."""
        return map(self.__getitem__, range(len(self)))


def check_stream_size(rows: int, length: int) -> None:
    """Raise unless both are positive numbers."""
    check_window_length(length)
    if rows < 1:
        raise UserError(f"A text is cut into at least 1 row; rows is {rows}.")


def batch_spec(batch: NumpyBatch, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch like this one, but of `batch_size` rows."""
    return {
        key: jax.ShapeDtypeStruct((batch_size, *value.shape[1:]), value.dtype)
        for key, value in batch.items()
    }
