"""How statistics of batches become those of a split: exact sums on the device, or kept rows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.typing import Array


@dataclasses.dataclass(frozen=True)
class Sums:
    """Running sums on the device, exact: nothing but one total is ever held.

    Integers are summed in 64 bits, as two words of 32; floats in twice float32's precision, as a
    sum and what its rounding lost (Knuth, "The art of computer programming", 4.2.2, theorem B).
    """

    def zero(self, statistics: Any) -> Any:
        """Pairs of zeros."""
        return jax.tree.map(_zero, statistics)

    def update(self, total: Any, statistics: Any, mask: Array) -> Any:
        """The total with one more batch, whose statistics leave padding out already."""
        del mask
        return _add(total, statistics)

    def result(self, total: Any) -> Any:
        """The totals as numpy's int64 and float64."""
        return jax.tree.map(_widen, jax.device_get(total), is_leaf=_is_pair)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The statistics of every example, kept on the host: for metrics that need all at once.

    Such as rankings (AUROC, mean average precision, retrieval) and what a scorer of others reads
    (BLEU). Leaves of the statistics are (B, ...), and so are they in the result, padding left out.
    """

    def zero(self, statistics: Any) -> list[Any]:
        """No rows."""
        del statistics
        return []

    def update(self, total: list[Any], statistics: Any, mask: Array) -> list[Any]:
        """The rows with those of one more batch."""
        for leaf in jax.tree.leaves(statistics):
            if leaf.shape[:1] != mask.shape:
                raise UserError(
                    f"`Rows` keeps statistics (B, ...), a row for each of {len(mask)} examples; "
                    f"got an array of shape {leaf.shape}. Sums of a batch go with `Sums`."
                )
        kept = np.asarray(jax.device_get(mask))
        return [*total, jax.tree.map(lambda rows: rows[kept], jax.device_get(statistics))]

    def result(self, total: list[Any]) -> Any:
        """Arrays (N, ...) of all rows, in the order of the split."""
        return jax.tree.map(lambda *parts: np.concatenate(parts), *total)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Pair:
    """A sum: of floats, and of what rounding lost; of integers, low and high word."""

    low: Any
    high: Any


def _is_pair(node: Any) -> bool:
    return isinstance(node, _Pair)


def _zero(statistic: Any) -> _Pair:
    dtype = _word(statistic.dtype)
    return _Pair(jnp.zeros(statistic.shape, dtype), jnp.zeros(statistic.shape, dtype))


def _word(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else jnp.uint32


@jax.jit
def _add(total: Any, statistics: Any) -> Any:
    return jax.tree.map(_add_one, total, statistics, is_leaf=_is_pair)


def _add_one(total: _Pair, x: Array) -> _Pair:
    if total.low.dtype == jnp.uint32:
        x_low, x_high = _words(x)
        low = total.low + x_low
        return _Pair(low, total.high + x_high + (low < x_low).astype(jnp.uint32))
    x = x.astype(total.low.dtype)
    low = total.low + x
    part = low - total.low
    lost = (total.low - (low - part)) + (x - part)
    # An infinite sum loses no finite rest: inf - inf would be NaN.
    return _Pair(low, total.high + jnp.where(jnp.isfinite(low), lost, 0.0))


def _words(x: Array) -> tuple[Array, Array]:
    """The low and the high 32 bits of integers in two's complement."""
    if x.dtype.itemsize == 8:
        return x.astype(jnp.uint32), (x >> 32).astype(jnp.uint32)
    low = x.astype(jnp.int32 if jnp.issubdtype(x.dtype, jnp.signedinteger) else jnp.uint32)
    high = jnp.where(low < 0, jnp.uint32(2**32 - 1), jnp.uint32(0))
    return jax.lax.bitcast_convert_type(low, jnp.uint32), high


def _widen(total: _Pair) -> np.ndarray:
    if total.low.dtype == np.uint32:
        whole = total.low.astype(np.uint64) | (total.high.astype(np.uint64) << np.uint64(32))
        return np.asarray(whole).view(np.int64)
    return np.asarray(total.low.astype(np.float64) + total.high.astype(np.float64))
