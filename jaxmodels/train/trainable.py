"""Training a part of the params: which, by path; the others are frozen.

Gradients and optimizer state exist only for the trainable params: elsewhere their trees hold None.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.typing import Array, Batch, Collections, Key, Params

Trainable = str | Callable[[str], bool]
"""A regular expression searched in a param's path (`hidden/kernel`), or a function of the path."""


def trainable_params(params: Params, trainable: Trainable | None) -> Params:
    """The params with None in the place of those that are frozen.

    Raises:
        UserError: none is left.
    """
    if trainable is None:
        return params
    pattern = trainable if isinstance(trainable, str) else None
    trains = trainable if callable(trainable) else lambda path: bool(re.search(trainable, path))
    chosen = tree.map_named(lambda path, leaf: leaf if trains(path) else None, params)
    if not jax.tree.leaves(chosen):
        paths = [path for path, _ in tree.named_leaves(params)]
        raise UserError(
            f"trainable={pattern or trainable!r} selects no parameter; there are "
            + ", ".join(paths[:20])
            + (" ..." if len(paths) > 20 else "")
        )
    return chosen


def with_frozen(trained: Params, params: Params) -> Params:
    """The params, with those that are trained in their places."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, trained, params, is_leaf=lambda x: x is None
    )


@dataclasses.dataclass(frozen=True)
class OfTrainable:
    """An objective as a function of the trainable params alone."""

    objective: Callable[..., Any]
    params: Params

    def __call__(
        self, trained: Params, collections: Collections, batch: Batch, key: Key, step: Any = 0
    ) -> tuple[Array, Any]:
        """The loss of the whole set of params."""
        return self.objective(with_frozen(trained, self.params), collections, batch, key, step)

    @property
    def coupled(self) -> str:
        """Why rows depend on each other, where they do; see `objectives.Objective`."""
        return getattr(self.objective, "coupled", "")
