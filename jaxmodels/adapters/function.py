"""A plain function in the place of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxmodels.adapters.base import has_model, map_model
from jaxmodels.typing import Model


@dataclasses.dataclass(frozen=True)
class FunctionModel:
    """A function `(variables, *inputs) -> outputs`, such as a decoder loop, as a model."""

    function: Callable[..., Any]

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """No variables: a function has none of its own."""
        del rngs, args, kwargs
        return {}

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the function with the variables; no collection changes."""
        outputs = self.function(variables, *args)
        return outputs if kwargs.get("mutable", False) is False else (outputs, {})

    def map_model(self, fn: Callable[[Model], Model]) -> Any:
        """The function with `fn` applied to its own model; `fn` of the whole if it has none."""
        if not has_model(self.function):
            return fn(self)
        return dataclasses.replace(self, function=map_model(self.function, fn))
