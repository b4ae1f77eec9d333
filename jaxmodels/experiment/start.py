"""Starting from trained params: those of another run."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxmodels import tree
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import CHECKPOINTS, as_folder
from jaxmodels.experiment.files import CONFIG, check_version
from jaxmodels.train import State
from jaxmodels.train.checkpoint import Checkpoints
from jaxmodels.typing import CARRY

AVERAGED = "averaged"
"""In a run's config: what was evaluated is the average that `optimizers.ema` keeps."""


Start = Callable[[State], State]
"""What a run begins with in the place of initial params: a function `state -> state`.

It is called with the initial state, placed on the mesh, and returns one of the same shapes. The
optimizer's state is then made anew for its params, unless it was changed too. Its attribute
`provenance`, a mapping of plain values that says where the params are from, goes into the run's
config; without one, its name does.
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
            "folder": str(self.folder),
            "new": self.new,
            "step": self._checkpoints.newest_step(),
            **{name: config.get(name) for name in ("experiment", "command", "commit")},
        }

    def __call__(self, state: State) -> State:
        """The state with the run's params and collections, each shard read where it goes."""
        wanted = {"params": state.params, "collections": state.collections}
        kept = self._kept([path for path, _ in tree.named_leaves(wanted)])
        sources = self._sources()
        read = {
            path: (sources(path), leaf)
            for path, leaf in tree.named_leaves(wanted)
            if path not in kept
        }
        arrays = self._checkpoints.read_leaves(read)
        merged = tree.map_named(lambda path, leaf: arrays.get(path, leaf), wanted)
        return dataclasses.replace(state, **merged)

    def _kept(self, paths: list[str]) -> set[str]:
        """The leaves that keep their initial values."""
        kept = {path for path in paths if self.new and re.search(self.new, path)}
        if not self.new or kept:
            # The recurrent state belongs to the rows of the other run's batches.
            return kept | {path for path in paths if path.startswith(f"collections/{CARRY}/")}
        raise UserError(
            f"new={self.new!r} matches no leaf of this model; the leaves are "
            + ", ".join(paths[:20])
        )

    def _sources(self) -> Any:
        """From a leaf's path to its path in the run's checkpoint: the average, where it has one."""
        if self._config.get("eval_params") != AVERAGED:
            return lambda path: path
        names = self._checkpoints.leaf_names()
        prefix = next(n[: m.end()] for n in names if (m := re.match(r"opt_state/(.*/)?ema/", n)))

        def source(path: str) -> str:
            average = path.replace("params/", prefix, 1)
            return average if path.startswith("params/") and average in names else path

        return source

    @property
    def _config(self) -> dict[str, Any]:
        path = as_folder(self.folder) / CONFIG
        try:
            config = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"--start {self.folder}: no run is there (no {CONFIG}); expected another run's "
                "folder"
            ) from None
        except ValueError:
            raise UserError(f"{path} is not what a run writes; give the folder of a run") from None
        check_version(config, self.folder)
        return config

    @property
    def _checkpoints(self) -> Checkpoints:
        folder = as_folder(self.folder) / CHECKPOINTS
        if not folder.is_dir():
            raise UserError(f"--start {self.folder} holds no {CHECKPOINTS}: it saved no state")
        return Checkpoints(folder)


def from_run(folder: str | os.PathLike[str], new: str = "") -> FromRun:
    """Start from another run: the params that its metrics were measured with.

    That is the newest good checkpoint's average where the run evaluates one (`optimizers.ema`),
    else its params; and its other collections. Leaves are found by path and must have the same
    shapes.

    Args:
        folder: of the run, which must have saved a checkpoint.
        new: a regular expression of the leaves that keep their initial values instead, such as
            `"output"` for a head with other classes.

    Raises:
        UserError: no run is there, or its leaves are others: they are named.
    """
    return FromRun(os.fspath(folder), new)


def provenance(start: Start | None) -> Any:
    """What a run's config says of its start; None without one."""
    if start is None:
        return None
    named = getattr(start, "__qualname__", type(start).__qualname__)
    return getattr(start, "provenance", {"function": named})


def started(state: State, start: Start, optimizer: Any, trained: Any) -> State:
    """Apply `start`, check what it returns, and make the optimizer's state for its params.

    `trained` picks the trainable params of all.

    Raises:
        UserError: it changed a shape or dtype.
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
        raise UserError("the start changed the state's form:\n" + "\n".join(wrong + extra))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    if new.opt_state is state.opt_state:
        make = jax.jit(lambda p: optimizer.init(trained(p)), out_shardings=shardings.opt_state)
        new = dataclasses.replace(new, opt_state=make(new.params))
    return jax.device_put(new, shardings)
