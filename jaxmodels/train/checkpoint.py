"""Checkpoints: saved in the background, verified before use.

Orbax writes and reads the arrays. It has no checksums, restores flipped bits without a word, and
never turns to an earlier checkpoint: `step_folders` adds that. A step's folder is plain Orbax, so
`orbax.checkpoint.v1.load` reads it without this package.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

# Not later: it imports Pallas, after which jax compiles everything anew.
from orbax.checkpoint import v1 as orbax

from jaxmodels.errors import UserError
from jaxmodels.train import leaves
from jaxmodels.train.collective import from_first, raise_any
from jaxmodels.train.step_folders import StepFolders

_SHOWN = 20


class DamagedCheckpoints(UserError):
    """Checkpoints are there, but none that can be used. Nothing was deleted."""


class StateDiffers(UserError):
    """The checkpoint holds other leaves, shapes or dtypes than the state that it's meant for."""


class SaveFailed(UserError):
    """A checkpoint could not be written: a full disk, a missing right. Earlier ones are whole."""


@dataclass(frozen=True)
class Restored:
    """A state from a checkpoint that was verified."""

    step: int
    state: Any
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    rejected: list[str]
    """Why newer checkpoints were passed over, a line for each reason."""


class Checkpoints:
    """The checkpoints of one run in `folder`: the last `keep`, and the best by metric `best`.

    With several processes the folder is shared, and all processes call every method. Leaving the
    context waits until everything is on disk.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        best: str | None = None,
        minimize: bool = True,
    ) -> None:
        """`folder` is a path, made if it isn't there, or an address such as `gs://bucket/run`."""
        if keep < 1:
            raise UserError(f"keep: expected at least 1 checkpoint to keep, got {keep}")
        logging.getLogger("absl").addFilter(_not_from_orbax)
        self._folders = StepFolders(folder)
        self._keep, self._best, self._sign = keep, best, 1 if minimize else -1
        self._current: int | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        """Nothing to open."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Wait; if an error is on its way already, a failed save becomes a note on it."""
        failure = self._finished()
        self._writer.shutdown()
        if error is None:
            raise_any(failure)
        elif failure is not None:
            error.add_note(str(failure))

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] = {},
        metadata: Mapping[str, Any] = {},
    ) -> None:
        """Copy `state` to the host and write it in the background; then it may be donated.

        First waits for the save before, and raises `SaveFailed` if that went wrong. Does nothing
        for a step that this object saved or restored last. `metadata` is what JSON can hold.
        """
        self.wait()
        if step == self._current:
            return
        record = self._record(step, state, metrics, metadata)
        from_first(lambda: self._folders.make_room(step))
        try:
            response = _write(self._folders.path(step), leaves.stored(state))
        except Exception as error:
            raise self._failure(step, error) from error
        self._current = step
        self._pending = self._writer.submit(self._complete, step, response, record)

    def wait(self) -> None:
        """Until all is on disk, checksums too. Raises `SaveFailed` if something isn't."""
        raise_any(self._finished())

    def steps(self) -> list[int]:
        """Steps with a completed checkpoint, ascending; not verified."""
        return self._folders.steps()

    def restore_latest(self, like: Any) -> Restored | None:
        """The newest checkpoint that is as it was written, or None if none was ever completed.

        `like` is the state as `ShapeDtypeStruct`s with the shardings wanted now. Damaged newer
        checkpoints are moved aside (`300.damaged`), never deleted, once an older one is restored.
        Raises `DamagedCheckpoints` if there are some but none is good, `StateDiffers` if the good
        one is of another state.
        """
        self.wait()
        found = from_first(self._folders.newest_whole)
        if found["step"] is not None:
            restored = self._read(found["step"], like, found["reasons"])
            from_first(lambda: [self._folders.move_aside(step) for step in found["newer"]])
            return restored
        if found["any"]:
            raise self._damaged(found["reasons"])
        return None

    def restore(self, step: int, like: Any) -> Restored:
        """The checkpoint of `step`, verified. `like` and errors are those of `restore_latest`."""
        self.wait()
        steps = from_first(self.steps)
        if step not in steps:
            held = ", ".join(map(str, steps)) or "none"
            raise UserError(f"no checkpoint of step {step} in {self._folders.folder}; held: {held}")
        if reasons := from_first(lambda: self._folders.damage(step)):
            raise self._damaged(reasons)
        return self._read(step, like, [])

    def read_latest(self, part: str) -> Any:
        """A part of the newest good checkpoint, such as `params`, as nested dicts on one device.

        Needs no description of the state, and changes nothing on disk. Warns of newer checkpoints
        that are damaged; raises `DamagedCheckpoints` if none is good, `UserError` if there is none
        or none of it is called `part`.
        """
        step = self._newest()
        like = leaves.part_like(self._folders.record(step)["leaves"], part)
        arrays = _load(self._folders.path(step), leaves.stored_like(like), partial=True)
        return leaves.at(leaves.restored(like, arrays), part)

    def newest_step(self) -> int:
        """The step of the newest good checkpoint; raises what `read_latest` raises."""
        return self._newest()

    def leaf_names(self) -> set[str]:
        """The paths of all leaves in the newest good checkpoint."""
        return set(self._folders.record(self._newest())["leaves"])

    def read_leaves(self, wanted: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
        """Some leaves of the newest good checkpoint, each placed like a given array.

        Args:
            wanted: by any name, the path in the checkpoint, and an array (or its shape, dtype and
                sharding) that the leaf is to be like.

        Raises:
            StateDiffers: a leaf is missing there, or has another shape or dtype; it names all.
        """
        step = self._newest()
        record = self._folders.record(step)["leaves"]
        like = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in wanted.values()
        }
        held = {name: (tuple(shape), dtype) for name, (shape, dtype) in record.items()}
        expected = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in like.items()}
        held = {name: entry for name, entry in held.items() if name in expected}
        path = self._folders.path(step)
        if lines := leaves.differences(expected, held):
            raise StateDiffers(f"the checkpoint {path} is of another model:\n{_listed(lines)}")
        nested = leaves.nest({tuple(name.split("/")): leaf for name, leaf in like.items()})
        arrays = _load(path, leaves.stored_like(nested), partial=True)
        read = leaves.restored(nested, arrays)
        return {name: leaves.at(read, source) for name, (source, _) in wanted.items()}

    def _newest(self) -> int:
        self.wait()
        found = self._folders.newest_whole()
        if found["step"] is None:
            raise self._damaged(found["reasons"] or ["there is none"])
        if found["reasons"]:
            warnings.warn(f"passed over:\n{_listed(found['reasons'])}", stacklevel=4)
        return found["step"]

    def _record(self, step: int, state: Any, metrics: Any, metadata: Any) -> dict[str, Any]:
        shapes = leaves.describe(state)
        if not any(np.prod(shape) for shape, _ in shapes.values()):
            raise UserError("the state to save holds no numbers")
        if self._best and metrics and self._best not in metrics:
            given = ", ".join(metrics)
            raise UserError(f"the best checkpoint goes by {self._best}; step {step} has: {given}")
        return {
            "step": step,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "metadata": dict(metadata),
            "leaves": shapes,
        }

    def _complete(self, step: int, response: Any, record: Mapping[str, Any]) -> None:
        try:
            response.result()
            if jax.process_index() == 0:
                self._folders.complete(step, record)
                self._folders.prune(step, self._keep, self._best, self._sign)
        except Exception as error:
            raise self._failure(step, error) from error

    def _failure(self, step: int, error: Exception) -> SaveFailed:
        self._current = None
        if jax.process_index() == 0:
            # Some of Orbax's threads may still write there; the next save removes what stays.
            with contextlib.suppress(Exception):  # A bucket's are no OSErrors.
                self._folders.discard(step)
        steps = [good for good in self.steps() if good != step]
        last = f"the last good one is of step {steps[-1]}" if steps else "there is no earlier one"
        return SaveFailed(
            f"the checkpoint of step {step} could not be written to {self._folders.folder} "
            f"({self._folders.free()} free there); {last}.\nThe reason: {error}"
        )

    def _finished(self) -> BaseException | None:
        failure = self._pending.exception() if self._pending else None
        self._pending = None
        return failure

    def _read(self, step: int, like: Any, rejected: list[str]) -> Restored:
        record = self._folders.record(step)
        found = {name: (tuple(shape), dtype) for name, (shape, dtype) in record["leaves"].items()}
        if lines := leaves.differences(leaves.describe(like), found):
            path = self._folders.path(step)
            raise StateDiffers(f"the checkpoint {path} is of another state:\n{_listed(lines)}")
        arrays = _load(self._folders.path(step), leaves.stored_like(like))
        self._current = step
        state = leaves.restored(like, arrays)
        return Restored(step, state, record["metrics"], record["metadata"], rejected)

    def _damaged(self, reasons: list[str]) -> DamagedCheckpoints:
        return DamagedCheckpoints(
            f"no checkpoint in {self._folders.folder} is as it was written:\n{_listed(reasons)}\n"
            "Nothing was deleted. Bring them back from a copy, or start again in a new folder."
        )


def _listed(lines: list[str]) -> str:
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:_SHOWN], *more])


def _write(path: epath.Path, arrays: Any) -> Any:
    with _orbax_options():
        return orbax.save_async(path, arrays)


def _load(path: epath.Path, like: Any, partial: bool = False) -> Any:
    with _orbax_options(partial):
        return orbax.load(path, like)


def _orbax_options(partial: bool = False) -> orbax.Context:
    context = orbax.Context()
    # Weights hardly compress (8 %), and trying makes writing three times as slow.
    context.array.saving.use_compression = False
    # Sharing the writing of replicated arrays pays between hosts. Among the devices of one host it
    # only cuts the arrays up, and the caller waits ten times as long.
    context.array.saving.use_replica_parallel = jax.process_count() > 1
    context.pytree.loading.partial_load = partial
    return context


def _not_from_orbax(record: logging.LogRecord) -> bool:
    # It warns on the terminal of harmless things, and raises what matters.
    return f"{os.sep}orbax{os.sep}" not in record.pathname
