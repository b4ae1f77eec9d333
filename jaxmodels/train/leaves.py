"""Conversion of a state (a pytree) to the nested dicts of arrays in a checkpoint, and back.

Leaves are named by their path (`opt_state/0/mu/Dense_0/kernel`), so a checkpoint does not depend on
the classes of the state. Typed PRNG keys are stored as their key data; arrays without elements are
only described in the record, since Orbax refuses them.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.errors import UserError

Path = tuple[str, ...]
Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype by path."""


def describe(tree: Any) -> Shapes:
    """Shape and dtype of every leaf of `tree`."""
    return {"/".join(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in _flat(tree)}


def differences(expected: Shapes, found: Shapes) -> list[str]:
    """A line for each leaf that differs."""
    names = dict.fromkeys([*expected, *found])
    return [
        f"{name}: expected {_format(expected.get(name))}, found {_format(found.get(name))}"
        for name in names
        if expected.get(name) != found.get(name)
    ]


def to_stored(tree: Any) -> dict[str, Any]:
    """The arrays of `tree` to store, as nested dicts."""
    return nest({path: _key_data(leaf) for path, leaf in _flat(tree) if math.prod(leaf.shape)})


def abstract_stored(like: Any) -> dict[str, Any]:
    """`to_stored` of an abstract tree: `ShapeDtypeStruct`s with shardings."""
    return nest({path: _abstract(leaf) for path, leaf in _flat(like) if math.prod(leaf.shape)})


def abstract_part(shapes: Mapping[str, Any], part: str) -> Any:
    """The leaves below `part` as `ShapeDtypeStruct`s in nested dicts; `shapes` is from `describe`.

    Raises `UserError` if there are none.
    """
    chosen = {n: entry for n, entry in shapes.items() if f"{n}/".startswith(f"{part}/")}
    if not chosen:
        parts = ", ".join(dict.fromkeys(name.partition("/")[0] for name in shapes))
        raise UserError(f"the checkpoint has no part {part!r}; its parts are {parts}")
    return nest(
        {
            tuple(name.split("/")): jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
            for name, (shape, dtype) in chosen.items()
        }
    )


def get_part(nested: Mapping[str, Any], part: str) -> Any:
    """The part of nested dicts at a path such as `opt_state/0`."""
    return _get(nested, tuple(part.split("/")))


def from_stored(like: Any, nested: Mapping[str, Any]) -> Any:
    """A tree like `like` with the arrays of `nested`: the inverse of `to_stored`."""
    leaves = [
        _from_key_data(leaf, _get(nested, path)) if math.prod(leaf.shape) else _empty(leaf)
        for path, leaf in _flat(like)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _flat(tree: Any) -> list[tuple[Path, Any]]:
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(_path(keys), _array(leaf)) for keys, leaf in pairs]


def _path(keys: tuple[Any, ...]) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys) or ("value",)


def _array(leaf: Any) -> Any:
    # Copies numpy arrays, since they are written later, in the background.
    return leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else jnp.array(leaf)


def nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Nested dicts of values by path."""
    nested: dict[str, Any] = {}
    for (*parents, name), value in flat.items():
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = value
    return nested


def _get(nested: Mapping[str, Any], path: Path) -> Any:
    value: Any = nested
    for name in path:
        value = value[name]
    return value


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    # Orbax can store typed keys, but restores a scalar key with sharding P(None,) instead of P(),
    # for which the step would be compiled again.
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    words = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=_sharding(leaf))


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    return leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _from_key_data(like: Any, words: jax.Array) -> jax.Array:
    if not _is_key(like):
        return words
    # Under jit, so that the result has the sharding that a step returns: see `_key_data`.
    wrap = functools.partial(jax.random.wrap_key_data, impl=_implementation(like))
    return jax.jit(wrap, out_shardings=_sharding(like))(words)


def _implementation(like: Any) -> Any:
    # `key_impl` rejects a ShapeDtypeStruct, but accepts a tracer of one.
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]


def _empty(like: Any) -> jax.Array:
    make = jax.jit(lambda: jnp.zeros(like.shape, like.dtype), out_shardings=_sharding(like))
    return make()


def _format(entry: Any) -> str:
    return "nothing" if entry is None else f"{entry[1]}{list(entry[0])}"
