"""Stopping early: at SIGTERM or Ctrl-C between two steps, or when another process is lost."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import jax
from jax.experimental import multihost_utils

from jaxmodels.experiment.bucket import Folder
from jaxmodels.train.checkpoint import SaveFailed

WANTED = signal.SIGTERM, signal.SIGINT


class StopRequest:
    """Whether a signal asked to stop; `number` is the exit status, 128 + the signal's number."""

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
def listen() -> Iterator[StopRequest]:
    """Catch SIGTERM (a preempted machine) and SIGINT (Ctrl-C) for the time of the context."""
    request = StopRequest()
    handlers = dict.fromkeys(WANTED, request.note)
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: _as_preempted}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def abort_with_peers(checkpoints: Folder | None = None) -> Iterator[None]:
    """If another process is lost, end this one, with advice on stderr; alone, do nothing.

    `checkpoints` is where the run's are, once it has begun.

    The exit status is 1 where a collective fails, or a checkpoint, of which the lost one had a
    part. It is SIGABRT's, 134, where both wait for the lost one until jax's runtime misses its
    heartbeats, after `HEARTBEAT_TIMEOUT` seconds, or misses process 0, at once: that aborts the
    process, and no Python runs any more.
    """
    count = jax.process_count()
    if count == 1:
        yield
        return
    advice = (
        f"{Path(sys.argv[0]).name}: process {jax.process_index()} of {count} ended before the run "
        "was done: it or another one was killed or failed, or its machine was lost. The first "
        "one to end tells why.\n" + _how_to_go_on(checkpoints)
    )
    with _will(advice):
        try:
            yield
            return
        except (jax.errors.JaxRuntimeError, SaveFailed) as error:
            # Before the will is revoked: jax may abort this process at any moment.
            print(f"{error}\n{advice}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Not by the interpreter's way out: there jax waits for all processes, and the lost one never
    # comes; nor by way of the checkpoints, whose last write may wait for it too.
    os._exit(1)


def _how_to_go_on(checkpoints: Folder | None) -> str:
    if checkpoints is None:
        return "No step was taken; start the processes again, more or fewer if need be."
    return (
        f"Every completed checkpoint in {checkpoints} is good. To go on from the newest, start "
        f"the processes again, more or fewer if need be, with\n  --out {checkpoints.parent}"
    )


def _as_preempted(signum: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C as SIGTERM, on which all processes agree; a second one acts at once."""
    del frame
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _will(text: str) -> Iterator[None]:
    """Have the text printed on stderr, should this process end before the context does."""
    # Only this process holds the pipe's other end, so however it ends, the shell's `read` fails.
    command = 'trap "" HUP INT TERM; read -r revoked || printf "%s\\n" "$1" >&2'
    with subprocess.Popen(["sh", "-c", command, "sh", text], stdin=subprocess.PIPE) as shell:
        try:
            yield
        finally:
            shell.communicate(b"\n")
