"""A method of a model in the place of its call."""

import dataclasses
from typing import Any

from jaxmodels.typing import Model


@dataclasses.dataclass(frozen=True)
class Method:
    """A model whose outputs are what its method `name` returns."""

    model: Model
    name: str

    def init(self, rngs: Any, *inputs: Any) -> Any:
        """Make the variables."""
        return self.model.init(rngs, *inputs, method=self.name)

    def apply(self, variables: Any, *inputs: Any, **kwargs: Any) -> Any:
        """Call the method."""
        return self.model.apply(variables, *inputs, method=self.name, **kwargs)
