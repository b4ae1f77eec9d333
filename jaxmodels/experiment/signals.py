"""Stop a run early: at SIGTERM, SIGHUP or Ctrl-C after a step, or when another process is lost."""

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

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
"""Preemption, Ctrl-C, and a terminal that is closed (unless `nohup` has SIGHUP ignored)."""


class StopRequest:
    """Whether a signal asked to stop; `number` is the exit status, 128 + the signal's number."""

    number: int | None = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler; a second signal has its default effect."""
        del frame
        self.number = 128 + signum
        signal.signal(signum, signal.SIG_DFL)
        if signum == signal.SIGHUP:
            _leave_terminal()

    def __call__(self, step: int) -> bool:
        """Whether to stop after this step; the same on all processes."""
        # With several processes, jax catches SIGTERM and agrees with the others on a step.
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.number = 128 + signal.SIGTERM
        return self.number is not None


@contextlib.contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Within the context, turn the signals of `SIGNALS` into a stop request."""
    request = StopRequest()
    handlers = dict.fromkeys(SIGNALS, request.handle)
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: _send_sigterm, signal.SIGHUP: _send_sigterm}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def abort_with_peers(checkpoints: Folder | None = None) -> Iterator[None]:
    """End this process, with advice on stderr, if another process of the run is lost.

    `checkpoints` is the run's folder of checkpoints, once there is one. With a single process
    nothing is done.

    The exit status is 1 if a collective or a checkpoint fails because of the lost process. It is
    134 (SIGABRT) if this one waits for it until jax's runtime misses heartbeats, after
    `HEARTBEAT_TIMEOUT` seconds, or at once if process 0 is lost: then jax aborts the process, and
    no Python code runs.
    """
    count = jax.process_count()
    if count == 1:
        yield
        return
    advice = (
        f"{Path(sys.argv[0]).name}: process {jax.process_index()} of {count} ended before the run "
        "was complete: it or another one was killed or failed, or its machine was lost. The first "
        "one to end has printed why.\n" + _resume_advice(checkpoints)
    )
    with _print_if_killed(advice):
        try:
            yield
            return
        except (jax.errors.JaxRuntimeError, SaveFailed) as error:
            # Within the context: jax may abort this process at any moment. In one piece, with its
            # line end: jax's threads write there as well.
            sys.stderr.write(f"{error}\n{advice}\n")
            sys.stderr.flush()
    sys.stdout.flush()
    # Not sys.exit: jax's exit handlers wait for all processes, and so may the last checkpoint.
    os._exit(1)


def _resume_advice(checkpoints: Folder | None) -> str:
    if checkpoints is None:
        return "No step was taken; start the processes again, with more or fewer if need be."
    return (
        f"Every completed checkpoint in {checkpoints} is good. To resume from the newest, start "
        f"the processes again, more or fewer if need be, with\n  --out {checkpoints.parent}"
    )


def _send_sigterm(signum: int, frame: FrameType | None) -> None:
    """Turn it into SIGTERM, which stops all processes; a second one has its default effect."""
    del frame
    signal.signal(signum, signal.SIG_DFL)
    if signum == signal.SIGHUP:
        _leave_terminal()
    os.kill(os.getpid(), signal.SIGTERM)


def print_nowhere(*descriptors: int) -> None:
    """Discard what is printed there, where printing would fail."""
    with open(os.devnull, "wb") as nowhere:
        for descriptor in descriptors:
            os.dup2(nowhere.fileno(), descriptor)


def _leave_terminal() -> None:
    """Print nowhere instead of on a closed terminal."""
    print_nowhere(*filter(os.isatty, (1, 2)))


@contextlib.contextmanager
def _print_if_killed(text: str) -> Iterator[None]:
    """Print the text on stderr if this process dies within the context, however it dies.

    A shell waits on a pipe. Only this process holds the other end, so when it dies `read` fails.
    """
    command = 'trap "" HUP INT TERM; read -r revoked || printf "%s\\n" "$1" >&2'
    with subprocess.Popen(["sh", "-c", command, "sh", text], stdin=subprocess.PIPE) as shell:
        try:
            yield
        finally:
            shell.communicate(b"\n")
