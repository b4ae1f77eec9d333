"""Losses as sums of named terms: each a weighted mean with a coefficient.

    loss = sum over terms of coefficient * sum(values * weights) / sum(weights)

Totals and weights are kept separately, so that parts of a batch (accumulation, devices) can be
summed exactly, term by term, also if their weights differ.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmodels.errors import UserError
from jaxmodels.typing import Array, Collections, Scalars

Schedule = Callable[[Any], Any]


class Term(NamedTuple):
    """One term of a loss.

    Attributes:
        values: losses of rows (B,), tokens (B, T) or any shape.
        weights: of the same shape; 1 if absent.
        coefficient: of the term in the loss; a number, or a schedule of the step number. With
            coefficient 0 a term is only reported, such as an error rate.
    """

    values: Array
    weights: Array | None = None
    coefficient: float | Array | Schedule = 1.0


class TermSum(NamedTuple):
    """A term summed over a batch or a part of one: total, sum of weights, coefficient."""

    total: Array
    weight: Array
    coefficient: Array


class Aux(NamedTuple):
    """Auxiliary output of an objective, beside the loss.

    Attributes:
        collections: the model's updated collections.
        sums: the terms of the loss. If empty, the loss counts as one term, with equal weight for
            each part of a batch.
        scalars: other values to report.
    """

    collections: Collections
    sums: Mapping[str, TermSum] = {}
    scalars: Scalars = {}  # noqa: RUF012


def check_terms(terms: Any) -> None:
    """Raise `UserError` unless these are terms by name."""
    values = terms.values() if isinstance(terms, Mapping) else [terms]
    wrong = [type(value).__name__ for value in values if not isinstance(value, Term)]
    if wrong:
        raise UserError(
            "an objective's score returns terms by name, such as {'loss': Term(values)}; got "
            f"{'values' if isinstance(terms, Mapping) else 'an object'} of type {wrong[0]}"
        )


def sum_terms(terms: Mapping[str, Term], step: Any) -> dict[str, TermSum]:
    """Each term's total, weight and coefficient at this step, in float32."""
    return {name: _sum_term(term, step) for name, term in terms.items()}


def total_loss(sums: Mapping[str, TermSum]) -> Array:
    """The sum over terms of coefficient times weighted mean."""
    terms = (one.coefficient * ratio(one.total, one.weight) for one in sums.values())
    return sum(terms, jnp.float32(0))


def reported_means(terms: Mapping[str, Term], sums: Mapping[str, TermSum]) -> dict[str, Array]:
    """The means to report beside the loss: all, except that of a term that equals the loss."""
    in_loss = [name for name, term in terms.items() if not _is_number(term.coefficient, 0)]
    alone = len(in_loss) == 1 and _is_number(terms[in_loss[0]].coefficient, 1)
    return {k: mean for k, mean in term_means(sums).items() if not (alone and k == in_loss[0])}


def term_means(sums: Mapping[str, TermSum]) -> dict[str, Array]:
    """The weighted mean of each term, without its coefficient."""
    return {name: ratio(one.total, one.weight) for name, one in sums.items()}


def _is_number(coefficient: Any, number: int) -> bool:
    return isinstance(coefficient, int | float) and coefficient == number


def _sum_term(term: Term, step: Any) -> TermSum:
    values = jnp.asarray(term.values).astype(jnp.float32)
    coefficient = term.coefficient(step) if callable(term.coefficient) else term.coefficient
    if term.weights is None:
        total, weight = jnp.sum(values), jnp.float32(values.size)
    else:
        weights = jnp.asarray(term.weights).astype(jnp.float32)
        if weights.shape != values.shape:
            raise UserError(
                f"a term has values of shape {values.shape} and weights of shape {weights.shape}; "
                "expected a weight for each value"
            )
        # Not 0 * values: values of weight 0 may be NaN.
        total = jnp.sum(jnp.where(weights != 0, values * weights, 0.0))
        weight = jnp.sum(weights)
    return TermSum(total, weight, jnp.asarray(coefficient, jnp.float32))


def ratio(total: Array, weight: Array) -> Array:
    """total / weight, or 0 if the weight is 0."""
    return total / jnp.where(weight == 0, 1.0, weight)
