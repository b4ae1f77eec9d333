"""Rematerialisation (gradient checkpointing): activations computed again for the gradient.

Chen et al. 2016, "Training deep nets with sublinear memory cost": memory for time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxmodels.adapters.base import Adapter, is_array
from jaxmodels.typing import Model

Policy = Callable[..., Any]

POLICIES: dict[str, Policy | None] = {
    "none": None,
    # Not products with a batch axis on both sides: the scores of attention.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What `--remat` names: nothing is computed again; all but the results of dense layers; all."""


@dataclasses.dataclass(frozen=True)
class Remat(Adapter):
    """`jax.checkpoint` of the whole model: what `policy` does not save is computed again."""

    policy: Policy = jax.checkpoint_policies.nothing_saveable
    forwards_calls: ClassVar[bool] = True

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; arguments that are no arrays are static."""
        leaves, structure = jax.tree.flatten((variables, args, kwargs))
        arrays = {n: leaf for n, leaf in enumerate(leaves) if is_array(leaf)}

        def run(arrays: dict[int, Any]) -> Any:
            whole = [arrays.get(n, leaf) for n, leaf in enumerate(leaves)]
            variables, args, kwargs = jax.tree.unflatten(structure, whole)
            return self.model.apply(variables, *args, **kwargs)

        return jax.checkpoint(run, policy=self.policy)(arrays)


def remat(model: Model, policy: Policy) -> Model:
    """The model with rematerialisation: of one block at a time where it has fields `remat`.

    Such fields are set in the model and in all modules that are its attributes, or in tuples and
    dicts that are, such as the stacks of an encoder and a decoder. A model without any is wrapped
    in `Remat`.
    """
    inner = _with_field(model, policy) if isinstance(model, nn.Module) else None
    return Remat(model, policy) if inner is None else inner


def _with_field(module: nn.Module, policy: Policy) -> nn.Module | None:
    """A copy with every field `remat` set; None where there is no such field."""
    changes: dict[str, Any] = {}
    for name in module.__dataclass_fields__.keys() - {"parent"}:
        if name == "remat":
            changes[name] = policy
            continue
        parts, structure = jax.tree.flatten(getattr(module, name))
        inner = [_with_field(x, policy) if isinstance(x, nn.Module) else None for x in parts]
        if any(x is not None for x in inner):
            found = [x if new is None else new for x, new in zip(parts, inner, strict=True)]
            changes[name] = jax.tree.unflatten(structure, found)
    return module.clone(**changes) if changes else None
