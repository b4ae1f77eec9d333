"""Gradient accumulation, and gradients per device, with the interface of `jax.value_and_grad`.

For `make_step(..., grad=...)`. A loss is a sum of terms, each a weighted mean (`jaxmodels.terms`).
So the weights of the whole batch are summed first: this costs almost nothing, since the compiler
removes the rest of that forward pass.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxmodels.errors import UserError
from jaxmodels.terms import Aux, TermSum, ratio, term_means, total_loss
from jaxmodels.typing import BATCH_AXES, CARRY, Array, Batch

Grad = Callable[..., Callable[..., tuple[Any, Any]]]


def accumulate(n: int, grad: Grad = jax.value_and_grad) -> Grad:
    """Gradient accumulation over `n` parts of a batch: activations take 1/n of the memory.

    Loss, gradients and scalars equal those of the whole batch, also if parts have different numbers
    of valid tokens. Two things differ: BatchNorm normalises within a part, and each part has its
    own randomness. Rows of the collection `carry` stay with the rows of the batch.

    Raises:
        UserError: `n` is not positive; or, while tracing, it does not divide the batch, or a row's
            loss depends on other rows (`Objective.coupled`).
    """
    if not isinstance(n, int) or n < 1:
        raise UserError(f"expected at least 1 part to accumulate over, got {n}")

    def transform(fn: Callable[..., Any], **kwargs: Any) -> Callable[..., tuple[Any, Any]]:
        _check_uncoupled(fn, "accumulated over parts")
        return partial(_accumulated, fn, partial(grad, **kwargs), n)

    return transform


def per_device(mesh: Mesh, grad: Grad = jax.value_and_grad) -> Grad:
    """Gradients per device (`shard_map`), then their sum: data parallelism as with `pmap`.

    Loss and gradients equal those of the whole batch, except that BatchNorm normalises by each
    device's own rows (Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.3), and its
    running statistics are the devices' mean. Randomness differs by device; params are replicated.
    """
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    whole, rows = PartitionSpec(), PartitionSpec(axes)

    def transform(fn: Callable[..., Any], **kwargs: Any) -> Callable[..., tuple[Any, Any]]:
        _check_uncoupled(fn, "taken by each device alone")

        def own(params: Any, collections: Any, carry: Any, batch: Any, key: Any, step: Any) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            args = {**collections, **carry}, batch, key, step
            weights, coefficients = _weigh(fn, params, *args)
            weights = jax.lax.psum(weights, axes)
            (loss, aux), gradient = grad(_loss_share(fn, weights), **kwargs)(params, *args)
            shared, carry = _split_carry(aux.collections)
            loss, gradient, totals = jax.lax.psum((loss, gradient, _totals(aux)), axes)
            shared, scalars = jax.tree.map(partial(_mean_over, axes), (shared, aux.scalars))
            aux = _joined_aux(shared, totals, weights, coefficients, scalars)
            return ((loss, aux), gradient), carry

        # check_vma=False: results of `pmean` are replicated.
        mapped = jax.shard_map(
            own,
            mesh=mesh,
            in_specs=(whole, whole, rows, rows, whole, whole),
            out_specs=(whole, rows),
            check_vma=False,
        )

        def summed(
            params: Any, collections: Any, batch: Batch, key: Any, step: Any = 0
        ) -> tuple[Any, Any]:
            result, carry = mapped(params, *_split_carry(collections), batch, key, step)
            (loss, aux), gradient = result
            return (loss, aux._replace(collections={**aux.collections, **carry})), gradient

        return summed

    return transform


def _accumulated(
    fn: Callable[..., Any],
    grad: Grad,
    n: int,
    params: Any,
    collections: Any,
    batch: Batch,
    key: Any,
    step: Any = 0,
) -> tuple[Any, Any]:
    collections, carry = _split_carry(collections)
    carry, batch = jax.tree.map(lambda x: _split_rows(x, n), (carry, batch))
    parts = carry, batch, jax.random.split(key, n)
    weights, coefficients = _weigh_parts(fn, params, collections, parts, step)
    value_and_grad = grad(_loss_share(fn, weights))

    def one_part(collections: Any, part: Any) -> tuple[Any, Any, Any]:
        own, *rest = part
        (loss, aux), gradient = value_and_grad(params, {**collections, **own}, *rest, step)
        shared, own = _split_carry(aux.collections)
        return shared, own, (loss, gradient, _totals(aux), aux.scalars)

    def add(carried: Any, part: Any) -> tuple[Any, Any]:
        collections, total = carried
        shared, own, found = one_part(collections, part)
        return (shared, jax.tree.map(jnp.add, total, found)), own

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(one_part, collections, first)[2]
    # A bfloat16 sum of many parts would lose most of them.
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, "float32")), shapes
    )
    (collections, total), own = jax.lax.scan(add, (collections, zeros), parts)
    loss, gradient, totals, scalars = jax.tree.map(
        lambda x, like: x.astype(like.dtype), total, shapes
    )
    collections = {**collections, **jax.tree.map(_join_rows, own)}
    scalars = jax.tree.map(lambda x: x / n, scalars)
    return (loss, _joined_aux(collections, totals, weights, coefficients, scalars)), gradient


def _weigh_parts(
    fn: Callable[..., Any], params: Any, collections: Any, parts: Any, step: Any
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Weight of each term in all parts together, and its coefficient."""

    def weigh(_: None, part: Any) -> tuple[None, Any]:
        own, *rest = part
        return None, _weigh(fn, params, {**collections, **own}, *rest, step)

    weights, coefficients = jax.lax.scan(weigh, None, parts)[1]
    weights = jax.tree.map(lambda x: x.sum(axis=0), weights)
    return weights, jax.tree.map(lambda x: x[-1], coefficients)


@dataclasses.dataclass(frozen=True)
class _Share:
    """The share of some rows in the loss of a whole batch, the weights of whose terms are given."""

    fn: Callable[..., Any]
    weights: dict[str, Array]

    def __call__(
        self, params: Any, collections: Any, batch: Batch, key: Any, step: Any = 0
    ) -> tuple[Array, Aux]:
        aux = _with_sums(*self.fn(params, collections, batch, key, step))
        shares = {
            name: one._replace(coefficient=one.coefficient * ratio(one.weight, self.weights[name]))
            for name, one in aux.sums.items()
        }
        return total_loss(shares), aux


def _loss_share(fn: Callable[..., Any], weights: dict[str, Array]) -> _Share:
    """The share in the loss of the whole batch; that of a part of a part is one already."""
    return fn if isinstance(fn, _Share) else _Share(fn, weights)


def _weigh(fn: Callable[..., Any], *args: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """Weight and coefficient of each term."""
    sums = _with_sums(*fn(*args)).sums
    weights = {name: one.weight for name, one in sums.items()}
    return weights, {name: one.coefficient for name, one in sums.items()}


def _with_sums(loss: Array, aux: Aux) -> Aux:
    """A loss without terms becomes a single term of weight 1."""
    one = jnp.float32(1)
    return aux if aux.sums else aux._replace(sums={"loss": TermSum(loss, one, one)})


def _joined_aux(
    collections: Any, totals: Any, weights: Any, coefficients: Any, scalars: Any
) -> Aux:
    """The `Aux` of the whole batch: means of terms are recomputed, other scalars are kept."""
    sums = {k: TermSum(totals[k], weights[k], coefficients[k]) for k in totals}
    whole = {name: mean for name, mean in term_means(sums).items() if name in scalars}
    return Aux(collections, sums, {**scalars, **whole})


def _mean_over(axes: tuple[str, ...], x: Array) -> Array:
    """The mean over devices; of integers, such as counters, the largest, in their own type."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jax.lax.pmean(x, axes)
    return jax.lax.pmax(x.astype(jnp.promote_types(x.dtype, "uint8")), axes).astype(x.dtype)


def _totals(aux: Aux) -> dict[str, Any]:
    return {name: one.total for name, one in aux.sums.items()}


def _check_uncoupled(fn: Any, what: str) -> None:
    if reason := getattr(fn, "coupled", ""):
        raise UserError(
            f"this objective's gradient cannot be {what}: {reason}, so the losses of "
            "parts do not add up to the loss. Use a smaller batch, --remat, or more devices."
        )


def _split_rows(x: Array, n: int) -> Array:
    """(B, ...) -> (n, B / n, ...); part i has the rows i, i + n, ...

    Neighbouring rows are on one device, so each device keeps its share of every part, without
    communication.
    """
    if not jnp.ndim(x):
        raise UserError("a field of the batch is a single number; expected a row for each example")
    if x.shape[0] % n:
        raise UserError(
            f"a batch of {x.shape[0]} cannot be split into {n} equal parts; "
            f"choose a batch size that is a multiple of {n}"
        )
    return jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1)


def _join_rows(parts: Array) -> Array:
    """(n, B / n, ...) -> (B, ...), the inverse of `_split_rows`."""
    n, rows, *rest = parts.shape
    return jnp.swapaxes(parts, 0, 1).reshape(n * rows, *rest)


def _split_carry(collections: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split collections into those shared by all rows and `carry`, which has rows."""
    shared = {name: value for name, value in collections.items() if name != CARRY}
    return shared, {name: value for name, value in collections.items() if name == CARRY}
