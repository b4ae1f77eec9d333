"""Checkpoints: saved in the background by Orbax, verified by checksums before use.

Orbax has no checksums, restores flipped bits silently, and never falls back to an earlier
checkpoint: `checkpoint_folder` adds that. A step's folder is plain Orbax, so
`orbax.checkpoint.v1.load` reads it without this package.
"""

import contextlib
import logging
import math
import operator
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath

# At the top: it imports Pallas, after which jax compiles everything again.
from orbax.checkpoint import v1 as orbax

from jaxmodels.errors import UserError
from jaxmodels.train import leaves
from jaxmodels.train.checkpoint_folder import CheckpointFolder
from jaxmodels.train.collective import raise_on_all, run_on_process_0
from jaxmodels.train.paths import in_bucket

_MAX_LINES = 20


class DamagedCheckpoints(UserError):
    """There are checkpoints, but all are damaged. Nothing was deleted."""


class StateDiffers(UserError):
    """The checkpoint has other leaves, shapes or dtypes than the state to restore."""


class SaveFailed(UserError):
    """A checkpoint could not be written (disk full, no permission). Earlier ones are intact."""


@dataclass(frozen=True)
class Restored:
    """A state restored from a verified checkpoint."""

    step: int
    state: Any
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    rejected: list[str]
    """Why newer checkpoints were skipped, one line per reason."""


@dataclass(frozen=True)
class SavedLeaves:
    """The leaves of a verified checkpoint, read by their paths.

    Attributes:
        step: of the checkpoint.
        path: its folder.
        shapes: shape and dtype of each leaf, by its path in the state.
    """

    step: int
    path: epath.Path
    shapes: Mapping[str, Any]

    def read_part(self, part: str) -> Any:
        """A part, such as `params`, as nested dicts on one device.

        Needs no abstract state. Raises `UserError` if there is no such part.
        """
        like = leaves.abstract_part(self.shapes, part)
        arrays = _load(self.path, leaves.abstract_stored(like), partial=True)
        return leaves.get_part(leaves.from_stored(like, arrays), part)

    def read(self, wanted: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
        """Some leaves, each placed like a given array.

        Args:
            wanted: by any name, the path in the checkpoint, and an array (or its shape, dtype and
                sharding) that the leaf is to be like.

        Raises:
            StateDiffers: a leaf is missing there, or has another shape or dtype; all such are
                named as in `wanted`.
        """
        expected = {n: (tuple(leaf.shape), str(leaf.dtype)) for n, (_, leaf) in wanted.items()}
        held = {
            name: (tuple(self.shapes[source][0]), self.shapes[source][1])
            for name, (source, _) in wanted.items()
            if source in self.shapes
        }
        if lines := leaves.differences(expected, held):
            raise StateDiffers(
                f"the checkpoint {self.path} is of another model:\n{_format_lines(lines)}"
            )
        like = {
            source: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for source, leaf in wanted.values()
        }
        nested = leaves.nest({tuple(source.split("/")): leaf for source, leaf in like.items()})
        arrays = _load(self.path, leaves.abstract_stored(nested), partial=True)
        read = leaves.from_stored(nested, arrays)
        return {name: leaves.get_part(read, source) for name, (source, _) in wanted.items()}


class Checkpoints:
    """The checkpoints of one run in `folder`: keeps the last `keep`, and the best by metric `best`.

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
        """`folder` is a path, created if missing, or an address such as `gs://bucket/run`."""
        if keep < 1:
            raise UserError(f"expected keep of at least 1 checkpoint, got {keep}")
        logging.getLogger("absl").addFilter(_drop_orbax_records)
        self._folder = CheckpointFolder(folder)
        self._keep, self._best, self._sign = keep, best, 1 if minimize else -1
        self._current: int | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Wait for the last save; if it failed and another error is raised, add a note to that."""
        failure = self._wait_for_write()
        self._writer.shutdown()
        if error is None:
            raise_on_all(failure)
        elif failure is not None:
            error.add_note(str(failure))

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] = {},
        metadata: Mapping[str, Any] = {},
    ) -> None:
        """Copy `state` to the host and write it in the background; afterwards it may be donated.

        First waits for the previous save, and raises `SaveFailed` if that failed. Does nothing for
        the step that was saved or restored last. `metadata` must be JSON.
        """
        self.wait()
        if step == self._current:
            return
        record = self._record(step, state, metrics, metadata)
        run_on_process_0(lambda: self._folder.prepare_save(step))
        try:
            response = _write(self._folder.path(step), leaves.to_stored(state))
        except Exception as error:
            raise self._save_failed(step, error) from error
        self._current = step
        self._pending = self._writer.submit(self._complete, step, response, record)

    def wait(self) -> None:
        """Wait until everything is on disk, with checksums; raises `SaveFailed` if that failed."""
        raise_on_all(self._wait_for_write())

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending; not verified."""
        return self._folder.steps()

    def restore_latest(self, like: Any) -> Restored | None:
        """Restore the newest undamaged checkpoint; None if there is no complete one.

        `like` is the state as `ShapeDtypeStruct`s with the desired shardings. Damaged newer
        checkpoints are renamed (`300.damaged`), never deleted, once an older one is restored;
        incomplete ones (`300.incomplete`) are deleted once their step is saved.
        Raises `DamagedCheckpoints` if all are damaged, `StateDiffers` if the good one holds
        another state.
        """
        self.wait()
        found = run_on_process_0(self._folder.find_newest_intact)
        if found["step"] is not None:
            restored = self._read(found["step"], like, found["reasons"])
            run_on_process_0(lambda: [self._folder.move_aside(step) for step in found["newer"]])
            return restored
        if found["any"]:
            raise self._damaged_error(found["reasons"])
        return None

    def restore(self, step: int, like: Any) -> Restored:
        """Restore the checkpoint of `step`; `like` and errors are those of `restore_latest`."""
        self.wait()
        run_on_process_0(lambda: self._check_intact(step))
        return self._read(step, like, [])

    def open(self, which: str | int = "newest") -> SavedLeaves:
        """A good checkpoint, verified once, to read some leaves of; changes nothing on disk.

        Args:
            which: "newest"; "best", by the metric `best`; or a step number.

        Raises:
            UserError: there is no such checkpoint.
            DamagedCheckpoints: it, or for "newest" each of them, is damaged. Where only newer ones
                are, they are skipped with a warning.
        """
        self.wait()
        step = self._newest_intact() if which == "newest" else self._step(which)
        return SavedLeaves(step, self._folder.path(step), self._folder.read_record(step)["leaves"])

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the record of a step that was saved without."""
        self.wait()
        run_on_process_0(
            lambda: self._folder.add_metrics(step, metrics) if step in self.steps() else None
        )

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric `best` is better here than in all checkpoints; False without one."""
        best = self._best
        if best is None:
            return False
        self.wait()
        return run_on_process_0(lambda: self._folder.improves(metrics, best, self._sign))

    def _newest_intact(self) -> int:
        found = self._folder.find_newest_intact()
        if found["step"] is None and not found["reasons"]:
            raise UserError(f"there is no checkpoint in {self._folder.folder}: no state was saved")
        if found["step"] is None:
            raise self._damaged_error(found["reasons"])
        if found["reasons"]:
            warnings.warn(
                f"skipped damaged checkpoints:\n{_format_lines(found['reasons'])}", stacklevel=4
            )
        return found["step"]

    def _step(self, which: str | int) -> int:
        best = self._folder.best(self.steps(), self._best, self._sign)
        step = best if which == "best" else which
        if isinstance(step, str) or step is None:
            ranked = (
                f"are ranked by {self._best!r}" if self._best else "have no metric to rank them"
            )
            raise UserError(
                f"no checkpoint in {self._folder.folder} is {which!r}: expected 'newest', 'best' "
                f"or a step number; these checkpoints {ranked} (`Experiment.best`)"
            )
        step = operator.index(step)
        self._check_intact(step)
        return step

    def _check_intact(self, step: int) -> None:
        if step not in (steps := self.steps()):
            available = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"no checkpoint of step {step} in {self._folder.folder}; available: {available}"
            )
        if reasons := self._folder.find_damage(step):
            raise self._damaged_error(reasons)

    def _record(self, step: int, state: Any, metrics: Any, metadata: Any) -> dict[str, Any]:
        shapes = leaves.describe(state)
        if not any(np.prod(shape) for shape, _ in shapes.values()):
            raise UserError("the state to save holds no numbers")
        if self._best and metrics and self._best not in metrics:
            given = ", ".join(metrics)
            raise UserError(f"best={self._best!r} is not a metric of step {step}; it has: {given}")
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
                _check_readable(self._folder.path(step), record["leaves"])
                self._folder.write_record(step, record)
                self._folder.prune(step, self._keep, self._best, self._sign)
        except Exception as error:
            raise self._save_failed(step, error) from error

    def _save_failed(self, step: int, error: Exception) -> SaveFailed:
        self._current = None
        if jax.process_index() == 0:
            # Some of Orbax's threads may still write there; the next save removes what stays.
            with contextlib.suppress(Exception):  # A bucket raises other errors than OSError.
                self._folder.discard(step)
        steps = [good for good in self.steps() if good != step]
        last = f"the last good one is of step {steps[-1]}" if steps else "there is no earlier one"
        return SaveFailed(
            f"the checkpoint of step {step} could not be written to {self._folder.folder} "
            f"({self._folder.format_free_space()} free there); {last}.\nThe reason: {error}"
        )

    def _wait_for_write(self) -> BaseException | None:
        failure = self._pending.exception() if self._pending else None
        self._pending = None
        return failure

    def _read(self, step: int, like: Any, rejected: list[str]) -> Restored:
        record = self._folder.read_record(step)
        found = {name: (tuple(shape), dtype) for name, (shape, dtype) in record["leaves"].items()}
        if lines := leaves.differences(leaves.describe(like), found):
            path = self._folder.path(step)
            raise StateDiffers(
                f"the checkpoint {path} is of another state:\n{_format_lines(lines)}"
            )
        arrays = _load(self._folder.path(step), leaves.abstract_stored(like))
        self._current = step
        state = leaves.from_stored(like, arrays)
        return Restored(step, state, record["metrics"], record["metadata"], rejected)

    def _damaged_error(self, reasons: list[str]) -> DamagedCheckpoints:
        return DamagedCheckpoints(
            f"every checkpoint in {self._folder.folder} is damaged:\n{_format_lines(reasons)}\n"
            "Nothing was deleted. Restore them from a backup, or start again in a new folder."
        )


def _format_lines(lines: list[str]) -> str:
    more = [f"... and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return "\n".join(f"  {line}" for line in [*lines[:_MAX_LINES], *more])


def _write(path: epath.Path, arrays: Any) -> Any:
    with _orbax_options():
        return orbax.save_async(path, arrays)


def _load(path: epath.Path, like: Any, partial: bool = False) -> Any:
    with _orbax_options(partial):
        return orbax.load(path, like)


def _check_readable(path: epath.Path, shapes: leaves.Shapes) -> None:
    """Raise `OSError` unless the files on disk have every array under its name."""
    if in_bucket(path):
        return
    base = {"driver": "file", "path": f"{os.fspath(path)}/state/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    found = {key.decode() for key in store.list().result()}
    stored = [name for name, (shape, _) in shapes.items() if math.prod(shape)]
    if lost := [name for name in stored if f"{name.replace('/', '.')}/zarr.json" not in found]:
        raise OSError(f"{len(lost)} of {len(stored)} arrays cannot be read back, such as {lost[0]}")


def _orbax_options(partial: bool = False) -> orbax.Context:
    context = orbax.Context()
    # Weights hardly compress (8 %), and compressing makes writing three times slower.
    context.array.saving.use_compression = False
    # Splitting replicated arrays for writing pays between hosts. On one host the caller only waits
    # ten times longer.
    context.array.saving.use_replica_parallel = jax.process_count() > 1
    context.pytree.loading.partial_load = partial
    return context


def _drop_orbax_records(record: logging.LogRecord) -> bool:
    # Its warnings on the terminal are harmless; real problems raise.
    return f"{os.sep}orbax{os.sep}" not in record.pathname
