"""Start training from params of another run (fine-tuning, transfer learning)."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, folder_path
from jaxmodels.experiment.files import CONFIG, check_version, read_json
from jaxmodels.train import State
from jaxmodels.train.checkpoint import Checkpoints, SavedLeaves
from jaxmodels.train.paths import absolute
from jaxmodels.typing import CARRY

AVERAGED = "averaged"
"""`eval_params` in the config of a run that evaluates the average of `optimizers.ema`."""

Start = Callable[[State], State]
"""A function `state -> state` that replaces the initial params of a run.

It is called with the initial state, placed on the mesh, and returns one of the same shapes. The
optimizer is then initialised again for the new params, unless its state was changed too. An
attribute `provenance`, a mapping of plain values that tells where the params come from, is recorded
in the run's config; without one, the function's name is. Where an attribute `averaged` is true, the
statistics of BatchNorm are estimated for the new params, from the experiment's training data.
"""


@dataclasses.dataclass(frozen=True)
class FromRun:
    """See `from_run`."""

    folder: str
    new: str = ""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The run's folder, its experiment and command, the step of its newest checkpoint."""
        config = self._config
        return {
            "folder": str(absolute(folder_path(self.folder))),
            "new": self.new,
            "step": self._saved.step,
            **{name: config.get(name) for name in ("experiment", "command", "commit")},
        }

    @property
    def averaged(self) -> bool:
        """Whether the run's params are averages; BatchNorm's saved statistics are of others."""
        return self._config.get("eval_params") == AVERAGED

    def __call__(self, state: State) -> State:
        """The state with the run's params and collections; each device reads only its shards."""
        wanted = {"params": state.params, "collections": state.collections}
        kept = self._initial_leaves([path for path, _ in tree.named_leaves(wanted)])
        source = self._source_path()
        read = {
            path: (source(path), leaf)
            for path, leaf in tree.named_leaves(wanted)
            if path not in kept
        }
        arrays = self._saved.read(read)
        merged = tree.map_named(lambda path, leaf: arrays.get(path, leaf), wanted)
        return dataclasses.replace(state, **merged)

    def _initial_leaves(self, paths: list[str]) -> set[str]:
        """Paths of leaves that keep their initial values."""
        kept = {path for path in paths if self.new and re.search(self.new, path)}
        if not self.new or kept:
            # Recurrent state belongs to the rows of the other run's batches.
            return kept | {path for path in paths if path.startswith(f"collections/{CARRY}/")}
        raise UserError(
            f"new={self.new!r} matches no leaf of this model; the leaves are "
            + ", ".join(paths[:20])
        )

    def _source_path(self) -> Any:
        """Map a leaf's path to its path in the checkpoint: to the average's if there is one."""
        if not self.averaged:
            return lambda path: path
        names = self._saved.shapes
        prefix = next(n[: m.end()] for n in names if (m := re.match(r"opt_state/(.*/)?ema/", n)))

        def source(path: str) -> str:
            average = path.replace("params/", prefix, 1)
            return average if path.startswith("params/") and average in names else path

        return source

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        path = folder_path(self.folder) / CONFIG
        try:
            config = read_json(path, "give the folder of a run")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"--start {self.folder}: no run is there (no {CONFIG}); expected the folder of "
                "another run"
            ) from None
        check_version(config, self.folder)
        return config

    @functools.cached_property
    def _saved(self) -> SavedLeaves:
        """The run's newest good checkpoint: verified once, and the same one throughout."""
        folder = folder_path(self.folder) / CHECKPOINTS
        if not folder.is_dir() or not any(folder.iterdir()):
            raise UserError(
                f"--start {self.folder} holds no checkpoint: the run saved no state, as one of "
                "--evaluate never does; give the folder of a run that trained"
            )
        return Checkpoints(folder).open()


def from_run(folder: str | os.PathLike[str], new: str = "") -> FromRun:
    """Start from the trained params of another run, those that its metrics were measured with.

    These are from its newest good checkpoint: the average if the run evaluates one
    (`optimizers.ema`), else the params; and the other collections. Leaves are matched by path and
    must have the same shapes.

    Args:
        folder: the run's folder, with a checkpoint.
        new: a regular expression for the paths of leaves that keep their initial values instead,
            such as `"output"` for a head with other classes.

    Raises:
        UserError: there is no run, or its leaves differ; the message names them.
    """
    return FromRun(os.fspath(folder), new)


def provenance(start: Start | None) -> Any:
    """The record of a start in the run's config; None without one."""
    if start is None:
        return None
    named = getattr(start, "__qualname__", type(start).__qualname__)
    return getattr(start, "provenance", {"function": named})


def apply_start(state: State, start: Start, optimizer: Any, trained: Any) -> State:
    """Apply `start`, check its result, and initialise the optimizer for the new params.

    `trained` maps params to the trainable ones.

    Raises:
        UserError: `start` changed a path, shape or dtype.
    """
    new = start(state)
    before, after = dict(tree.named_leaves(state)), dict(tree.named_leaves(new))
    wrong = [
        f"  {path}: {leaf.dtype}{list(leaf.shape)} expected, "
        + (f"{after[path].dtype}{list(after[path].shape)}" if path in after else "nothing")
        + " found"
        for path, leaf in before.items()
        if path not in after or (after[path].shape, after[path].dtype) != (leaf.shape, leaf.dtype)
    ]
    if wrong or before.keys() != after.keys():
        extra = [f"  {path}: not in this model" for path in after.keys() - before.keys()]
        raise UserError(
            "`Experiment.start` changed the structure of the state:\n" + "\n".join(wrong + extra)
        )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    if new.opt_state is state.opt_state:
        make = jax.jit(lambda p: optimizer.init(trained(p)), out_shardings=shardings.opt_state)
        new = dataclasses.replace(new, opt_state=make(new.params))
    return jax.device_put(new, shardings)
