"""The training loop: asynchronous dispatch, delayed fetching of scalars, periodic actions."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.sharding import prefetch_to_devices
from jaxmodels.sharding.host_to_device import NumberedBatches
from jaxmodels.train.dispatch import RUN_AHEAD
from jaxmodels.train.state import State
from jaxmodels.train.step import Update
from jaxmodels.typing import Batch, Scalars

OnScalars = Callable[[int, dict[str, np.ndarray]], None]


@dataclasses.dataclass(frozen=True)
class Action:
    """`act(n, state)` after each step number that is a multiple of `every`, and after the last."""

    every: int
    act: Callable[[int, State], None]

    def due(self, before: int, n: int, stop: int) -> bool:
        """Whether a multiple was passed on the way from `before` to `n`."""
        return n // self.every > before // self.every or n == stop


class Diverged(ArithmeticError):
    """The loss or the updated state is NaN or infinite.

    Attributes:
        step: the first step that is not finite.
        last: the last step with a finite loss, and that loss, if known.
    """

    def __init__(self, message: str, step: int, last: tuple[int, float] | None = None) -> None:
        """`message` is shown to the user."""
        super().__init__(message)
        self.step, self.last = step, last


def fit(
    state: State,
    step: Update,
    batches: NumberedBatches,
    mesh: Mesh,
    stop: int,
    per_call: int | None = None,
    on_scalars: OnScalars = lambda n, scalars: None,
    actions: Sequence[Action] = (),
    should_stop: Callable[[int], bool] = lambda n: False,
) -> State:
    """Train until step `stop`, or until `should_stop(n)` is true after a step; return the state.

    Args:
        state: to start from, at any step number; donated.
        step: from `make_step`, or of several steps a call (`repeat`).
        batches, mesh: batches by step number, and the devices that they are placed on.
        stop: the last step number.
        per_call: steps per call of `step`, for a step made by `repeat`.
        on_scalars: called with n and arrays (steps of the call,), in order, up to `RUN_AHEAD`
            calls late, but before any action.
        actions: called between steps at their intervals.
        should_stop: called after every call of `step`.
    """
    pending: collections.deque[tuple[int, Scalars]] = collections.deque()

    def fetch(keep: int) -> None:
        while len(pending) > keep:
            n, scalars = pending.popleft()
            on_scalars(n, {k: np.atleast_1d(v) for k, v in jax.device_get(scalars).items()})

    for before, n, batch in _numbered(batches, mesh, int(state.step), stop, per_call):
        state, scalars = step(state, batch)
        pending.append((n, scalars))
        fetch(RUN_AHEAD)
        due = [action for action in actions if action.due(before, n, stop)]
        if due:
            fetch(0)
        for action in due:
            action.act(n, state)
        if should_stop(n):
            break
    fetch(0)
    return state


def check_finite() -> OnScalars:
    """An `on_scalars` that raises `Diverged` at the first loss that is not finite."""
    last: tuple[int, float] | None = None

    def check(n: int, scalars: dict[str, np.ndarray]) -> None:
        nonlocal last
        first = n - len(scalars["loss"]) + 1
        for number, loss in enumerate(scalars["loss"].tolist(), first):
            if not np.isfinite(loss):
                good = f"step {last[0]} with {last[1]:.6g}" if last else "no step before it"
                message = f"the loss of step {number} is {loss}; the last finite loss: {good}"
                raise Diverged(message, number, last)
            last = number, loss

    return check


def _numbered(
    batches: NumberedBatches, mesh: Mesh, start: int, stop: int, per_call: int | None
) -> Iterator[tuple[int, int, Batch]]:
    size = per_call or 1
    for i, batch in enumerate(prefetch_to_devices(batches, mesh, start, stop, per_call)):
        yield start + i * size, start + (i + 1) * size, batch
