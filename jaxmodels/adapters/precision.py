"""Computing in a shorter type than the params are kept in."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.typing import Model


@dataclasses.dataclass(frozen=True)
class Cast:
    """A model that computes in `dtype` and returns float32; params stay float32 outside it.

    Params and float inputs are cast on the way in, so that gradients come back as float32. Other
    collections are not cast: BatchNorm's statistics are sums, and Flax computes them in float32.
    Micikevicius et al. 2018, "Mixed precision training"; bfloat16 needs no loss scaling.
    """

    model: Model
    dtype: Any = jnp.bfloat16

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.model, name)

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Make the variables, in float32."""
        return self.model.init(*args, **kwargs)

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute in `dtype`."""
        variables = {**variables, "params": _cast(variables["params"], self.dtype)}
        outputs = self.model.apply(variables, *_cast(args, self.dtype), **kwargs)
        if kwargs.get("mutable", False) is False:
            return _cast(outputs, jnp.float32)
        outputs, collections = outputs
        return _cast(outputs, jnp.float32), collections


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
