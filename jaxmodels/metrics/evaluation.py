"""The evaluation: a model, a split, and how outputs become metrics."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxmodels.metric import Metric
from jaxmodels.metrics.reductions import Sums
from jaxmodels.typing import Array, Batch, Model, Reduction

Totals = Mapping[str, Any]
Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model measured on every example of a split, once.

    Attributes:
        model: computes outputs from the fields `inputs`.
        split: the examples.
        inputs: names of batch fields, the model's arguments; "segments?" may be absent.
        statistics: on the device, of outputs and a batch with "mask" (B,): for `Sums` sums over
            the batch where the mask is true (arrays are added up over batches, never stacked), for
            `Rows` arrays (B, ...).
        summary: on the host, metrics by name from what `reduction` made of all statistics.
        metrics: unit and direction by name. A name that is missing is shown without either, and
            cannot rank checkpoints.
        reduction: `Sums()`, running sums on the device, or `Rows()`, rows kept on the host; or
            any object with `zero`, `update` and `result`.
        prepare: changes each batch first, under `jit`, after the split's own preprocessing.
        batch_size: examples at a time; changes no metric.
        per_example_keys: whether the model draws samples. Each example is then computed with a key
            that follows from its position in the split, whatever the batch size and the mesh.
        stateful: whether batches are consecutive and the model's recurrent state, zero at first,
            goes from one to the next (`adapters.Stateful`).
    """

    model: Model
    split: Any
    inputs: tuple[str, ...]
    statistics: Callable[[Any, Batch], Any]
    summary: Callable[[Any], Metrics]
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    reduction: Reduction = dataclasses.field(default_factory=Sums)
    prepare: Callable[[Batch], Batch] | None = None
    batch_size: int = 500
    per_example_keys: bool = False
    stateful: bool = False


def count_true(flags: Array) -> Array:
    """How many are true along the first axis, int32."""
    return flags.sum(axis=0, dtype=jnp.int32)


def masked_sum(values: Array, mask: Array) -> Array:
    """The sum of values (B,) where the mask is true; what stands elsewhere may be NaN."""
    return jnp.where(mask, values, 0.0).sum()
