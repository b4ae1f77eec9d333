"""Freezing params: choose the trainable ones by path.

Gradients and optimizer state exist only for trainable params; their trees have None elsewhere.
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
    """The params with None in place of frozen ones.

    Raises:
        UserError: no param is trainable.
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


def merge_frozen(trained: Params, params: Params) -> Params:
    """All params: the trained ones, and the frozen ones from `params`."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, trained, params, is_leaf=lambda x: x is None
    )


@dataclasses.dataclass(frozen=True)
class TrainableObjective:
    """An objective as a function of only the trainable params."""

    objective: Callable[..., Any]
    params: Params

    def __call__(
        self, trained: Params, collections: Collections, batch: Batch, key: Key, step: Any = 0
    ) -> tuple[Array, Any]:
        return self.objective(merge_frozen(trained, self.params), collections, batch, key, step)

    @property
    def coupled(self) -> str:
        """Why rows depend on each other, if they do; see `objectives.Objective`."""
        return getattr(self.objective, "coupled", "")
