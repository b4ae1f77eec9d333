"""The folder of a run's checkpoints on disk: list, verify, rename damaged ones, delete old ones.

For step 300, Orbax writes `300/`, and `300.json` is our record: sizes and checksums of those files,
shapes, metrics, metadata. The record is written last and deleted first, so a step without a record
is incomplete. Only process 0 calls the methods that change files.
"""

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxmodels.errors import UserError
from jaxmodels.train import checksums
from jaxmodels.train.paths import absolute, in_bucket

_UNFINISHED = re.compile(r"(\d+)(\.orbax-checkpoint-tmp.*|\.json\.partial)?")
_INCOMPLETE = re.compile(r"(\d+)\.incomplete(-\d+)?")

_PATTERN_CHARACTERS = "*?[]\\"


class CheckpointFolder:
    """The checkpoints in `folder`, which is created if missing."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """`folder` is a path or an address such as `gs://bucket/run`."""
        self.folder = absolute(folder)
        if odd := sorted(set(_PATTERN_CHARACTERS) & set(str(self.folder))):
            raise UserError(
                f"no checkpoints can be kept in {self.folder}: Orbax takes {' and '.join(odd)} for "
                "a pattern of names; choose a folder without"
            )
        try:
            str(self.folder).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"no checkpoints can be kept in {os.fsencode(self.folder)!r}: not a UTF-8 name"
            ) from None
        if in_bucket(self.folder):
            return  # A bucket has no folders; mkdir in gcsfs would create a bucket.
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"no checkpoints can be kept in {self.folder}: {error.strerror}"
            raise UserError(reason) from None

    def path(self, step: int) -> epath.Path:
        """The folder that Orbax writes for `step`."""
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """Steps with a folder and a record, ascending."""
        names = self._names()
        return sorted(int(name) for name in names if name.isdigit() and f"{name}.json" in names)

    def read_record(self, step: int) -> dict[str, Any]:
        """The record of `step`; raises `checksums.CorruptFileError` if it is missing or damaged."""
        return checksums.read_checksummed_json(self._record_path(step))

    def write_record(self, step: int, record: Mapping[str, Any]) -> None:
        """Add checksums to the record and write it, which completes the checkpoint."""
        files = checksums.compute_checksums(self.path(step))
        checksums.write_checksummed_json(self._record_path(step), {**record, "files": files})

    def find_damage(self, step: int) -> list[str]:
        """Verify every byte of the checkpoint of `step`: a line for each damaged file."""
        try:
            files = self.read_record(step)["files"]
        except checksums.CorruptFileError as error:
            return [f"step {step}: {step}.json: {error}"]
        return [f"step {step}: {line}" for line in checksums.find_damage(self.path(step), files)]

    def find_newest_intact(self) -> dict[str, Any]:
        """The newest undamaged `step` or None, damaged `newer` steps, and the `reasons`.

        `any` is whether there is a record at all; without one no checkpoint was ever completed.
        """
        names = self._names()
        records = {int(name[:-5]) for name in names if re.fullmatch(r"\d+\.json", name)}
        reasons, newer = [], []
        for step in sorted(records | {int(n) for n in names if n.isdigit()}, reverse=True):
            damage = self.find_damage(step)
            if not damage:
                return {"step": step, "newer": newer, "reasons": reasons, "any": True}
            newer.append(step)
            reasons += damage
        return {"step": None, "newer": newer, "reasons": reasons, "any": bool(records)}

    def prepare_save(self, step: int) -> None:
        """Remove or rename what a killed process left of `step`, before it is saved again.

        Raises `UserError` if there is a complete checkpoint.
        """
        if step in self.steps():
            raise UserError(
                f"{self.path(step)} is a checkpoint of another run; "
                "choose a new folder, or move it away"
            )
        self._remove_partial(step)
        self.move_aside(step)

    def move_aside(self, step: int) -> None:
        """Rename the files of `step` to `300.damaged`, or `300.damaged-2` and so on.

        Without a record they are `300.incomplete`, which `prune` deletes once the step is complete.
        """
        names, number = self._names(), 1
        kind = "damaged" if f"{step}.json" in names else "incomplete"
        while {_aside(step, kind, number), _aside(step, kind, number) + ".json"} & names:
            number += 1
        # The folder first: if killed in between, the record still shows the damage.
        for suffix in ("", ".json"):
            if f"{step}{suffix}" in names:
                target = self.folder / f"{_aside(step, kind, number)}{suffix}"
                (self.folder / f"{step}{suffix}").rename(target)

    def discard(self, step: int) -> None:
        """Delete what a failed save of `step` left; a complete checkpoint stays."""
        self._remove_partial(step)
        if step not in self.steps() and self.path(step).exists():
            self.path(step).rmtree()

    def prune(self, newest: int, keep: int, best: str | None, sign: int) -> None:
        """Delete all but the last `keep` and the one where `sign` times `best` is smallest.

        One whose record is damaged may be the best: it is renamed. Unfinished files of steps before
        `newest` are deleted as well.
        """
        steps = self.steps()
        kept = {*steps[-keep:], self.best(steps, best, sign)}
        for step in set(steps) - kept:
            if self._metrics(step) is None:
                self.move_aside(step)
                continue
            self._record_path(step).unlink()
            self.path(step).rmtree()
        for name in self._names():
            left = _UNFINISHED.fullmatch(name)
            if left and int(left[1]) < newest and int(left[1]) not in kept:
                _remove(self.folder / name)
            aside = _INCOMPLETE.fullmatch(name)
            if aside and int(aside[1]) <= newest:
                _remove(self.folder / name)

    def best(self, steps: list[int], metric: str | None, sign: int) -> int | None:
        """The step where `sign` times the metric is smallest; None if none has it."""
        values = {step: sign * (self._metrics(step) or {}).get(metric, np.nan) for step in steps}
        finite = [step for step in steps if np.isfinite(values[step])]
        return min(finite, key=lambda step: values[step]) if finite else None

    def improves(self, metrics: Mapping[str, float], metric: str, sign: int) -> bool:
        """Whether the metric is finite, and better than in every checkpoint."""
        if not np.isfinite(value := sign * metrics.get(metric, np.nan)):
            return False
        best = self.best(self.steps(), metric, sign)
        return best is None or bool(value < sign * self.read_record(best)["metrics"][metric])

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics to the record of `step` if it has none."""
        record = self.read_record(step)
        if not record["metrics"]:
            checksums.write_checksummed_json(
                self._record_path(step), {**record, "metrics": dict(metrics)}
            )

    def format_free_space(self) -> str:
        """Free disk space as text."""
        if in_bucket(self.folder):
            return "an unknown number of bytes"
        return f"{shutil.disk_usage(self.folder).free / 1e6:,.0f} MB"

    def _remove_partial(self, step: int) -> None:
        for name in self._names():
            if name.startswith((f"{step}.orbax-checkpoint-tmp", f"{step}.json.partial")):
                _remove(self.folder / name)

    def _metrics(self, step: int) -> Mapping[str | None, float] | None:
        """The metrics in the record of `step`; None if that is damaged."""
        try:
            return self.read_record(step)["metrics"]
        except checksums.CorruptFileError:
            return None

    def _record_path(self, step: int) -> epath.Path:
        return self.folder / f"{step}.json"

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self.folder.iterdir()}
        except FileNotFoundError:
            if in_bucket(self.folder):
                return set()
            raise


def _aside(step: int, kind: str, number: int) -> str:
    return f"{step}.{kind}" + (f"-{number}" if number > 1 else "")


def _remove(path: epath.Path) -> None:
    path.rmtree() if path.is_dir() else path.unlink()
