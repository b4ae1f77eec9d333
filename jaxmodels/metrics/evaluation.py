"""What it takes to judge a model on a split."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxmodels.typing import Array, Batch, Model

Totals = Mapping[str, Any]
Figures = dict[str, Any]


def as_they_are(sums: Totals) -> Totals:
    """The sums."""
    return sums


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How to judge a model on a split.

    Attributes:
        model: computes outputs from `inputs(batch)`.
        split: the examples.
        inputs: picks the model's arguments from a batch.
        statistics: of outputs and a batch with "mask" (B,), sums by name: counts are int32 (exact
            up to 2 ** 31 a batch), other sums float32.
        summary: figures from the totals of `statistics` over all batches (float64, int64).
        batch_size: how many examples at a time; changes no figure (but of a model that draws
            samples, whose key is that of the batch's number).
        counted: on the host, makes sums of what `statistics` returned for a batch, where those
            are no sums yet: such as n-gram counts of the words of its tokens.
        carried: whether the batches are consecutive, and the model's carry, zero at first, goes
            from one to the next.
    """

    model: Model
    split: Any
    inputs: Callable[[Batch], tuple]
    statistics: Callable[[Any, Batch], dict[str, Array]]
    summary: Callable[[Totals], Figures]
    batch_size: int = 500
    counted: Callable[[Totals], Totals] = as_they_are
    carried: bool = False


def count(flags: Array) -> Array:
    """How many are true, along the first axis."""
    return flags.sum(axis=0, dtype=jnp.int32)
