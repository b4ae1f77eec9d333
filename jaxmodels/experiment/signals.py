"""Stopping between two steps when the system asks for it."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

WANTED = signal.SIGTERM, signal.SIGINT


class Asked:
    """Whether a signal has come; `number` is the exit status by custom, 128 and the signal's."""

    number: int | None = None

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Handle the signal; a second one acts as if nobody listened."""
        del frame
        self.number = 128 + signum
        signal.signal(signum, signal.SIG_DFL)

    def __call__(self, step: int) -> bool:
        """Whether to stop after this step, the same on all hosts."""
        # With several hosts, jax's own listener for SIGTERM agrees with the others on a step.
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.number = 128 + signal.SIGTERM
        return self.number is not None


@contextlib.contextmanager
def listening() -> Iterator[Asked]:
    """Catch SIGTERM (a preempted machine) and SIGINT (Ctrl-C) for the time of the context."""
    asked = Asked()
    wanted = WANTED if jax.process_count() == 1 else ()
    before = {number: signal.signal(number, asked.note) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
