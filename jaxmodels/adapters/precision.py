"""Mixed precision: computing in a shorter dtype than the params are kept in."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxmodels.adapters.base import Adapter, is_array


@dataclasses.dataclass(frozen=True)
class Cast(Adapter):
    """Computes in `dtype` and returns float32; params stay float32 outside.

    Params and float inputs are cast on the way in, so gradients come back as float32. Other
    collections are not cast: BatchNorm's statistics are sums, which Flax computes in float32.
    What a loss compares outputs with must come from the batch, not from a model's inputs, which
    are rounded here. Micikevicius et al. 2018, "Mixed precision training"; bfloat16 needs no loss
    scaling.
    """

    dtype: Any = jnp.bfloat16
    forwards_calls: ClassVar[bool] = True

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute in `dtype`; outputs of that dtype are returned as float32."""
        if "params" in variables:
            variables = {**variables, "params": self._shorten(variables["params"])}
        outputs = self.model.apply(variables, *self._shorten(args), **self._shorten(kwargs))
        if kwargs.get("mutable", False) is False:
            return self._widen(outputs)
        outputs, collections = outputs
        return self._widen(outputs), collections

    def _shorten(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(self.dtype) if _is_float(x) else x, tree)

    def _widen(self, tree: Any) -> Any:
        def widen(x: Any) -> Any:
            return x.astype(jnp.float32) if _is_float(x) and x.dtype == self.dtype else x

        return jax.tree.map(widen, tree)


def _is_float(x: Any) -> bool:
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)
