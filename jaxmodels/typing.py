"""Shared types and protocols (`Model`, `Objective`, `Evaluation`, ...), and axis letters.

Axis letters, the same everywhere (shape annotations, einsums, comments):

    B batch   T time, tokens   S source time   D features   N heads   H head size, height
    W width   C channels       K classes       V vocabulary Z latent
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from jaxmodels.errors import UserError

Array = jax.Array
Key = jax.Array
"""A typed PRNG key from `jax.random.key`."""
Batch = Mapping[str, Any]
"""Arrays by name; the first axis of each is B."""
Params = Any
Collections = Mapping[str, Any]
"""Variables that are not trained by gradients, such as `batch_stats`."""
CARRY = "carry"
"""The collection of recurrent state: unbounded, passed from call to call; leaves are (B, ...)."""
CACHE = "cache"
"""The collection of keys and values of incremental decoding: bounded; leaves are (B, ...)."""
Scalars = Mapping[str, Array]
BATCH_AXES = ("fsdp", "data")
"""The mesh axes that split the rows of a batch.

The order matters: with ("data", "fsdp") XLA's partitioner (jax 0.10 to 0.12) permutes rows between
devices for a kernel split over `tensor` and `fsdp`, does not permute them back, and so compares
outputs with targets of other rows. `tests/test_placement.py` tests this.
"""


@runtime_checkable
class Model(Protocol):
    """A network with Flax's two pure functions, `init` and `apply`.

    Objectives call it with `train=True`, evaluations without `train`.
    """

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the variables: `{"params": ..., other collections}`."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; with `mutable`, a pair of outputs and new collections."""
        ...


@runtime_checkable
class Objective(Protocol):
    """A loss to minimise: from `jaxmodels.objectives`, or any object with these two methods.

    `--precision` and `--remat` also need a dataclass field `model`, or a method `map_model(fn)`.
    """

    def init(self, key: Key, batch: Batch) -> tuple[Params, Collections]:
        """Make params and other collections for batches like this one."""
        ...

    def __call__(
        self, params: Params, collections: Collections, batch: Batch, key: Key, step: Any = 0
    ) -> tuple[Array, Any]:
        """The loss of a batch, and an `Aux` (see `jaxmodels.terms`)."""
        ...


@runtime_checkable
class TrainingData(Protocol):
    """Batches by step number, from `Split.batches` or `data.text.stream`."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        ...

    @property
    def example(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a raw batch."""
        ...

    @property
    def split(self) -> Any:
        """The examples: a `name`, a length, `preprocess` and `example`."""
        ...

    def iterate(self, start: int, stop: int, rows: Any = None) -> Iterator[Batch]:
        """Batches start to stop-1; only the given rows of each, if any are given."""
        ...

    def prepare(self, key: Key, batch: Batch) -> Batch:
        """Preprocessing and augmentation of a raw batch: pure, under `jit`."""
        ...

    def reseed(self, seed: int) -> "TrainingData":
        """The same examples in the order of another seed."""
        ...


@runtime_checkable
class Reduction(Protocol):
    """A reduction of statistics over the batches of a split: zero, update, result."""

    def zero(self, statistics: Any) -> Any:
        """The initial total; `statistics` are the shapes and dtypes of one batch's."""
        ...

    def update(self, total: Any, statistics: Any, mask: Array) -> Any:
        """Add the rows of one batch where `mask` (B,) is true."""
        ...

    def result(self, total: Any) -> Any:
        """The total as numpy arrays, for `Evaluation.summary`."""
        ...


@runtime_checkable
class Evaluation(Protocol):
    """A model evaluated on a split: from `jaxmodels.metrics`, or any object with these attributes.

    They are described at `metrics.Evaluation`.
    """

    @property
    def model(self) -> Model: ...
    @property
    def split(self) -> Any: ...
    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def statistics(self) -> Callable[[Any, Batch], Any]: ...
    @property
    def summary(self) -> Callable[[Any], Mapping[str, Any]]: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...
    @property
    def reduction(self) -> Reduction: ...
    @property
    def prepare(self) -> Callable[[Batch], Batch] | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def per_example_keys(self) -> bool: ...
    @property
    def stateful(self) -> bool: ...


def field_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of batch fields as a tuple; a single name stands for itself."""
    return (names,) if isinstance(names, str) else tuple(names)


def batch_field(batch: Batch, name: str) -> Any:
    """The batch's field of that name; `UserError`, which says what there is, if it is missing."""
    return batch_fields(batch, (name,))[0]


def batch_fields(batch: Batch, names: Sequence[str]) -> tuple[Any, ...]:
    """The fields of a batch with these names; a name such as "segments?" is optional.

    Raises:
        UserError: a field is missing.
    """
    optional = {name.removesuffix("?") for name in names if name.endswith("?")}
    wanted = [name.removesuffix("?") for name in names]
    missing = [name for name in wanted if name not in batch and name not in optional]
    if missing:
        raise UserError(
            f"the batch has no field {missing[0]!r}; it has {', '.join(batch)}. Name the fields "
            "that the model reads with `inputs=`, and the target with `target=`."
        )
    return tuple(batch[name] for name in wanted if name in batch)
