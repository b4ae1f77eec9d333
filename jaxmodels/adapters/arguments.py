"""Models with some arguments fixed: `functools.partial` of a model's `init` and `apply`."""

import dataclasses
from typing import Any

from jaxmodels.adapters.base import Adapter
from jaxmodels.typing import Model


@dataclasses.dataclass(frozen=True)
class WithArguments(Adapter):
    """Calls `init` and `apply` with these keyword arguments, unless the caller gives others."""

    arguments: tuple[tuple[str, Any], ...] = ()

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the variables, with the fixed arguments."""
        return self.model.init(rngs, *args, **{**dict(self.arguments), **kwargs})

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs, with the fixed arguments."""
        return self.model.apply(variables, *args, **{**dict(self.arguments), **kwargs})


def with_arguments(model: Model, **arguments: Any) -> WithArguments:
    """The model with keyword arguments fixed, such as `method="encode"` or `samples=5`."""
    return WithArguments(model, tuple(sorted(arguments.items())))
