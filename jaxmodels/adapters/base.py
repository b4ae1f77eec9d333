"""The base class of models that are made of a model."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.typing import Model


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A model made of `model`, all of whose behaviour it keeps but for what a subclass overrides.

    A subclass overrides `apply`, and `init` where it changes the variables. Attributes of the model
    (`context`, `tensor_dims`, `likelihood`, ...) are the adapter's too.
    """

    model: Model
    forwards_calls: ClassVar[bool] = False
    """Whether the model's `__call__` gets the arguments that the adapter gets."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the variables, as the model does."""
        return self.model.init(rngs, *args, **kwargs)

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; takes all that Flax's `apply` takes."""
        return self.model.apply(variables, *args, **kwargs)

    def init_with_output(self, rngs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The outputs and the variables, as Flax's `init_with_output`."""
        kwargs.pop("mutable", None)  # Flax's, of which collections `init` returns: all here
        variables = self.init(rngs, *args, **kwargs)
        return self.apply(variables, *args, rngs=rngs, mutable=True, **kwargs)[0], variables

    def clone(self, **changes: Any) -> "Adapter":
        """The same adapter of `model.clone(**changes)`."""
        return dataclasses.replace(self, model=self.model.clone(**changes))  # pyright: ignore[reportAttributeAccessIssue]

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a bound module's methods would bypass the adapter."""
        raise UserError(
            f"{type(self).__name__} cannot be bound: calls of the bound module would bypass it. "
            "Use `apply(variables, ..., method=...)`, or bind its `model`."
        )

    def __getattr__(self, name: str) -> Any:
        # Only asked for what the adapter itself does not have. Without the second test a copy or
        # an unpickled adapter, which has no fields yet, would ask for ever.
        if name.startswith("__") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


def has_model(part: Any) -> bool:
    """Whether there is a model in `part` for `map_model`; a plain function has none."""
    return hasattr(part, "model") or hasattr(part, "map_model")


def is_array(x: Any) -> bool:
    """Whether it is an array, of jax (traced or not) or numpy; not a dtype or a number."""
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def map_model(part: Any, fn: Callable[[Model], Model]) -> Any:
    """The same model, adapter, objective or evaluation with `fn` applied to its innermost model.

    So precision and rematerialisation go inside the adapters that read targets or keep state.

    Raises:
        UserError: `part` is neither a model nor has one: no `apply`, no field `model` and no method
            `map_model`.
    """
    if isinstance(part, nn.Module):
        return fn(part)
    if not isinstance(part, Adapter) and hasattr(part, "map_model"):
        return part.map_model(fn)
    if "model" in getattr(part, "__dataclass_fields__", {}):
        return dataclasses.replace(part, model=map_model(part.model, fn))
    if isinstance(part, Model):
        return fn(part)
    raise UserError(
        f"{type(part).__name__} has no model that precision or rematerialisation could be applied "
        "to: give it a dataclass field `model`, or a method `map_model(fn)`, or leave --precision "
        "and --remat at their defaults"
    )


def check_takes_train(model: Any) -> None:
    """Raise `UserError` for a module whose call has no argument `train`, which objectives give."""
    while isinstance(model, Adapter) and model.forwards_calls:
        model = model.model
    if not isinstance(model, nn.Module):
        return
    kinds = {p.name: p.kind for p in inspect.signature(type(model).__call__).parameters.values()}
    if "train" not in kinds and inspect.Parameter.VAR_KEYWORD not in kinds.values():
        raise UserError(
            f"{type(model).__name__}.__call__ has no argument `train`, with which objectives call "
            "it (train=True, for dropout and BatchNorm): add `train: bool = False`"
        )
