"""A small experiment with all that a state can hold, and ways to disturb it.

As a script it is a run like any other: `python tests/tiny_run.py --steps 12`. With TINY_KILLED_AT
in the environment it kills itself while it reads the batch of that number.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxmodels import data, metrics, objectives, optimizers
from jaxmodels.data import image
from jaxmodels.data.batches import Batches
from jaxmodels.data.shuffle import shuffled
from jaxmodels.errors import UserError
from jaxmodels.experiment import Experiment, Published, run


class Net(nn.Module):
    """Convolution, BatchNorm, dropout, two dense layers."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(4, (3, 3), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(10)(x)


def tiny(
    data_dir: str | None = None,
    steps: int = 12,
    batch_size: int = 16,
    rate: float = 1e-2,
    width: int = 64,
    dropout: float = 0.5,
    bad_step: int = 0,
) -> Experiment:
    """Digits, with augmentation and an average of the params.

    Args:
        data_dir: not read, but for one that is called `/nowhere`.
        steps: updates.
        batch_size: examples per update.
        rate: learning rate.
        width: of the hidden layer.
        dropout: before the output layer.
        bad_step: that trains on an image of NaN.
    """
    if data_dir == "/nowhere":
        raise UserError(f"{data_dir} holds no data")
    digits = data.load("digits")
    train = dict(digits["train"].read(np.arange(len(digits["train"]))))
    train["image"] = train["image"].astype(np.float32) / 16
    if bad_step:
        place = np.array([(bad_step - 1) * batch_size])
        train["image"][shuffled(place, len(train["label"]), 0)] = np.nan
    model = Net(width, dropout)
    return Experiment(
        objective=objectives.classification(model),
        optimizer=optax.chain(optax.adam(rate), optimizers.ema(0.9)),
        eval_params=optimizers.averaged,
        train=data.split(train, "digits/train", 10).batches(batch_size, image.random_crop(1)),
        evaluate={"test": metrics.classification(model, digits["test"])},
        steps=steps,
        published=Published({"test/error": 0.5}, "digits"),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Disturbed(Batches):
    """Batches at one of which something happens, once they have the run's seed, and no other."""

    at: int = 0
    act: Callable[[], None] = lambda: None
    seeded: bool = False

    def reseed(self, seed):
        if self.seeded:
            return Batches(self.split, self.batch_size, self.transform, seed)
        return dataclasses.replace(self, seed=seed, seeded=True)

    def iterate(self, start, stop, rows=None):
        for n, batch in enumerate(super().iterate(start, stop, rows), start):
            if n == self.at:
                self.act()
            yield batch


def disturbed(at: int, act: Callable[[], None], make=tiny):
    """The same experiment to all who ask, in which `act` happens while batch `at` is read."""

    @functools.wraps(make)
    def made(**hyperparameters):
        experiment = make(**hyperparameters)
        parts = vars(experiment.train)
        return dataclasses.replace(experiment, train=Disturbed(**parts, at=at, act=act))

    return made


def send(number: signal.Signals) -> Callable[[], None]:
    """An act: the system asks this process to stop."""
    return lambda: os.kill(os.getpid(), number)


def quietly(make, *arguments):
    """The outcome of a run, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = run(make, [str(argument) for argument in arguments])
    return outcome, printed.getvalue()


def numbers(folder: Path, prefix: str = "") -> list[dict]:
    """The lines of metrics.jsonl with names that begin so, without their times."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in lines
        if any(name.startswith(prefix) for name in line if name not in ("step", "time"))
    ]


def raw(state):
    """The state's leaves as numpy arrays."""

    def array(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(array, state)


def assert_identical(found, expected):
    """Bit for bit, all of a state."""
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), found, expected)


if __name__ == "__main__":
    killed_at = int(os.environ.get("TINY_KILLED_AT", "-1"))
    run(disturbed(killed_at, send(signal.SIGKILL)))
