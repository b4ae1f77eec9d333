"""What a model keeps of its forward pass for the gradient; the rest is computed again.

Chen et al. 2016, "Training deep nets with sublinear memory cost": memory for time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxmodels.typing import Model

POLICIES: dict[str, Callable[..., Any] | None] = {
    "everything": None,
    # Not those with a batch axis on both sides: of attention, the scores.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
}
"""By what is kept: all intermediates; the results of dense layers; only each block's inputs."""


@dataclasses.dataclass(frozen=True)
class Checkpointed:
    """A model of whose forward pass only what `policy` names is kept for the gradient."""

    model: Model
    policy: Callable[..., Any]

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Make the variables."""
        return self.model.init(*args, **kwargs)

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs."""

        def run(variables: Any, *args: Any) -> Any:
            return self.model.apply(variables, *args, **kwargs)

        return jax.checkpoint(run, policy=self.policy)(variables, *args)


def saving(part: Any, policy: Callable[..., Any]) -> Any:
    """The same objective, or model, with this policy for each block, or for all of the model.

    A stack of blocks has a `remat` of its own, so that one block at a time is computed again.
    """
    inner = getattr(part, "model", None)
    if inner is None:
        has_blocks = hasattr(part, "remat") and hasattr(part, "clone")
        return part.clone(remat=policy) if has_blocks else Checkpointed(part, policy)
    return dataclasses.replace(part, model=saving(inner, policy))
