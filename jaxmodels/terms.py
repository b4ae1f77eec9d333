"""Losses as sums of named terms: each a weighted mean with a coefficient.

    loss = sum over terms of coefficient * sum(values * weights) / sum(weights)

Totals and weights are kept apart, so that parts of a batch (accumulated, or on several devices) are
put together exactly, term by term, however unequally they count.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmodels.typing import Array, Collections, Scalars

Schedule = Callable[[Any], Any]


class Term(NamedTuple):
    """One term of a loss.

    Attributes:
        values: (B,), (B, T) or any shape; the losses of rows or tokens.
        weights: how much each counts, of the values' shape; one each if absent.
        coefficient: of the term in the loss; a number, or a schedule of the step number. A term of
            coefficient 0 is only reported, such as an error rate.
    """

    values: Array
    weights: Array | None = None
    coefficient: float | Array | Schedule = 1.0


class TermSum(NamedTuple):
    """A term summed over a batch, or over a part of one."""

    total: Array
    weight: Array
    coefficient: Array


class Aux(NamedTuple):
    """What an objective returns beside the loss.

    Attributes:
        collections: the model's, after the step.
        sums: what the loss is made of. Empty for an objective whose loss is not made of terms: it
            then counts as one term, every part alike.
        scalars: what else is reported.
    """

    collections: Collections
    sums: Mapping[str, TermSum] = {}
    scalars: Scalars = {}  # noqa: RUF012


def sum_terms(terms: Mapping[str, Term], step: Any) -> dict[str, TermSum]:
    """Each term's total, weight and coefficient at this step, in float32."""
    return {name: _sum_term(term, step) for name, term in terms.items()}


def loss_of(sums: Mapping[str, TermSum], weights: Mapping[str, Array] | None = None) -> Array:
    """The loss; with `weights`, those of the whole batch, the share that this part has in it."""
    weights = {name: one.weight for name, one in sums.items()} if weights is None else weights
    return sum(
        (one.coefficient * _ratio(one.total, weights[name]) for name, one in sums.items()),
        jnp.float32(0),
    )


def reported(terms: Mapping[str, Term], sums: Mapping[str, TermSum]) -> dict[str, Array]:
    """The means worth reporting beside the loss: all, but for a term that alone is the loss."""
    counted = [name for name, term in terms.items() if not _is_number(term.coefficient, 0)]
    alone = len(counted) == 1 and _is_number(terms[counted[0]].coefficient, 1)
    return {k: mean for k, mean in means(sums).items() if not (alone and k == counted[0])}


def means(sums: Mapping[str, TermSum]) -> dict[str, Array]:
    """The weighted mean of each term, before its coefficient."""
    return {name: _ratio(one.total, one.weight) for name, one in sums.items()}


def _is_number(coefficient: Any, number: int) -> bool:
    return isinstance(coefficient, int | float) and coefficient == number


def _sum_term(term: Term, step: Any) -> TermSum:
    values = jnp.asarray(term.values).astype(jnp.float32)
    coefficient = term.coefficient(step) if callable(term.coefficient) else term.coefficient
    if term.weights is None:
        total, weight = jnp.sum(values), jnp.float32(values.size)
    else:
        weights = jnp.asarray(term.weights).astype(jnp.float32)
        # Not 0 * values: what does not count may be NaN.
        total = jnp.sum(jnp.where(weights != 0, values * weights, 0.0))
        weight = jnp.sum(weights)
    return TermSum(total, weight, jnp.asarray(coefficient, jnp.float32))


def _ratio(total: Array, weight: Array) -> Array:
    """total / weight, 0 where nothing counts."""
    return total / jnp.where(weight == 0, 1.0, weight)
