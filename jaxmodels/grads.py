"""Functions with the interface of `jax.value_and_grad`, for `make_step(..., grad=...)`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxmodels.errors import UserError
from jaxmodels.typing import BATCH_AXES, CARRY, Array, Batch

Grad = Callable[..., Callable[..., tuple[Any, Any]]]


def accumulate(n: int, grad: Grad = jax.value_and_grad) -> Grad:
    """Gradients of a batch in `n` parts, one after the other: activations of 1/n of the memory.

    Loss, gradients and scalars are the means over the parts, each by its `Aux.weight`: those of the
    whole batch, also where parts have unequal numbers of tokens that count. Two things differ:
    BatchNorm normalises within a part and passes its statistics on, and each part draws its own
    randomness. The rows of the collection `carry` go with the rows of the batch.

    Raises:
        UserError: `n` is not positive, or, while tracing, does not divide the batch.
    """
    if n < 1:
        raise UserError(f"gradients are accumulated over at least one part, not {n}")

    def transform(fn: Callable[..., Any], **kwargs: Any) -> Callable[..., tuple[Any, Any]]:
        return partial(_in_parts, grad(fn, **kwargs), n)

    return transform


def per_device(mesh: Mesh, grad: Grad = jax.value_and_grad) -> Grad:
    """Gradients of each device's rows alone, then their mean: what `pmap` codes computed.

    Each device counts by its `Aux.weight`, as a part does in `accumulate`. It differs from the
    whole batch's in one thing: BatchNorm normalises by the statistics of a
    device's own rows, as in Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.3; the
    running statistics are the devices' mean. Each device draws its own randomness. Params are whole
    on every device while it computes; the mesh splits rows only.
    """
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)

    def transform(fn: Callable[..., Any], **kwargs: Any) -> Callable[..., tuple[Any, Any]]:
        value_and_grad = grad(fn, **kwargs)

        def own(params: Any, collections: Any, carried: Any, batch: Batch, key: Any) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            (loss, aux), gradient = value_and_grad(params, {**collections, **carried}, batch, key)
            shared, carried = _apart(aux.collections)
            weight = jax.lax.psum(aux.weight, axes)
            mine = _times(aux.weight / jnp.maximum(weight, 1), (loss, aux.scalars, gradient))
            loss, scalars, gradient = jax.lax.psum(mine, axes)
            shared = jax.lax.pmean(shared, axes)
            aux = aux._replace(collections=shared, scalars=scalars, weight=weight)
            return ((loss, aux), gradient), carried

        whole, rows = PartitionSpec(), PartitionSpec(axes)
        # Not checked: values that come out of `pmean` are the same on all devices.
        mapped = jax.shard_map(
            own,
            mesh=mesh,
            in_specs=(whole, whole, rows, rows, whole),
            out_specs=(whole, rows),
            check_vma=False,
        )

        def averaged(params: Any, collections: Any, batch: Batch, key: Any) -> tuple[Any, Any]:
            mean, carried = mapped(params, *_apart(collections), batch, key)
            (loss, aux), gradient = mean
            return (loss, aux._replace(collections={**aux.collections, **carried})), gradient

        return averaged

    return transform


def _in_parts(
    value_and_grad: Callable[..., tuple[Any, Any]],
    n: int,
    params: Any,
    collections: Any,
    batch: Batch,
    key: Any,
) -> tuple[Any, Any]:
    def add(carry: Any, part: tuple[Any, Batch, Any]) -> tuple[Any, Any]:
        collections, total = carry
        own, *rest = part
        (loss, aux), gradient = value_and_grad(params, {**collections, **own}, *rest)
        shared, own = _apart(aux.collections)
        one = _times(aux.weight, (loss, aux.scalars, gradient))
        return (shared, jax.tree.map(jnp.add, total, (one, aux.weight))), own

    collections, own = _apart(collections)
    own, batch = jax.tree.map(lambda x: _parts(x, n), (own, batch))
    parts = own, batch, jax.random.split(key, n)
    own, *first = jax.tree.map(lambda x: x[0], parts)
    (loss, aux), gradient = jax.eval_shape(value_and_grad, params, {**collections, **own}, *first)
    total = (loss, aux.scalars, gradient), aux.weight
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), total)
    (collections, (sums, weight)), own = jax.lax.scan(add, (collections, zeros), parts)
    loss, scalars, gradient = _times(1 / jnp.maximum(weight, 1), sums)
    collections = {**collections, **jax.tree.map(_joined, own)}
    aux = aux._replace(collections=collections, scalars=scalars, weight=weight)
    return (loss, aux), gradient


def _times(weight: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x: (x * weight).astype(x.dtype), tree)


def _parts(x: Array, n: int) -> Array:
    """(B, ...) -> (n, B / n, ...), part i being the rows i, i + n, ...

    Neighbouring rows lie on one device, so that each device keeps its share of every part and
    nothing is sent.
    """
    if x.shape[0] % n:
        raise UserError(
            f"a batch of {x.shape[0]} cannot be taken in {n} equal parts; "
            f"choose a batch size that is a multiple of {n}"
        )
    return jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1)


def _joined(parts: Array) -> Array:
    """(n, B / n, ...) -> (B, ...), the rows as they stood before `_parts`."""
    n, rows, *rest = parts.shape
    return jnp.swapaxes(parts, 0, 1).reshape(n * rows, *rest)


def _apart(collections: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all parts share, and what goes with the rows."""
    shared = {name: value for name, value in collections.items() if name != CARRY}
    return shared, {name: value for name, value in collections.items() if name == CARRY}
