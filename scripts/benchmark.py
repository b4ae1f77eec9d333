"""How fast this machine trains: steps, starts, input, checkpoints, beside PyTorch in the same run.

Where PyTorch is installed, its eager mode takes turns with ours, in a process of its own, and the
ratio is that of each pair of turns: a machine whose speed drifts slows both. Anything else that
runs slows PyTorch more, whose threads wait actively: measure on a machine that is otherwise idle.

    uv run --with torch scripts/benchmark.py
"""

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import numpy as np
import optax
import tyro

from jaxmodels import data, objectives, sharding, train, tree
from jaxmodels.models.cnn import ConvNet, LeNet
from jaxmodels.models.mlp import MLP
from jaxmodels.models.resnet import cifar_resnet
from jaxmodels.train.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent

Name = Literal["lenet", "convnet", "resnet20", "mlp"]
Part = Literal["steps", "start", "input", "checkpoints"]

MODELS: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "lenet": (LeNet(), (28, 28, 1)),
    "convnet": (ConvNet(), (28, 28, 1)),
    "resnet20": (cifar_resnet(20), (32, 32, 3)),
    "mlp": (MLP((512, 512, 10)), (28, 28, 1)),
}


def benchmark(
    parts: tuple[Part, ...] = ("steps", "start", "input", "checkpoints"),
    workloads: tuple[Name, ...] = ("mlp", "lenet", "convnet", "resnet20"),
    batch_size: int = 128,
    turns: int = 7,
    seconds: float = 1.0,
    megabytes: int = 100,
) -> None:
    """Measure, and print tables.

    Args:
        parts: what to measure.
        workloads: which networks.
        batch_size: examples per step.
        turns: how often ours and the peer alternate; medians are over these.
        seconds: how long a turn is, about.
        megabytes: size of the state of the checkpoint measurements.
    """
    measure = {
        "steps": lambda: steps(workloads, batch_size, turns, seconds),
        "start": start,
        "input": lambda: input_pipeline(batch_size, turns, seconds),
        "checkpoints": lambda: checkpoints(megabytes, turns),
    }
    for part in parts:
        measure[part]()


def images(shape: tuple[int, int, int], count: int = 10_000) -> data.Split:
    """A split of random images in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return data.split({"image": pixels, "label": np.arange(count) % 10}, "random")


@dataclasses.dataclass
class Ours:
    """A training step of ours on one batch, ready to be called; counts its parameters."""

    name: str
    batch: dict[str, np.ndarray]
    split: data.Split

    def __post_init__(self) -> None:
        mesh = sharding.mesh(devices=jax.devices()[:1])
        objective, optimizer = recipe(self.name, self.split, len(self.batch["label"]))
        self.fed = sharding.feed(self.batch, mesh)
        example = self.split.example(len(self.batch["label"]))
        self.state = train.init(jax.random.key(0), objective, optimizer, example, mesh)
        self.parameters = tree.count(self.state.params)
        self.step = train.make_step(objective, optimizer)
        self.compile_seconds = timed(self)

    def __call__(self) -> float:
        """Take a step and wait for it."""
        self.state, scalars = self.step(self.state, self.fed)
        return float(scalars["loss"])


def recipe(name: str, split: data.Split, batch_size: int) -> tuple[Any, Any]:
    """Adam, or for ResNet momentum and weight decay, as the experiments and the twins have it."""
    prepare = split.batches(batch_size).prepare
    objective = objectives.classification(MODELS[name][0]).after(prepare)
    if name != "resnet20":
        return objective, optax.adam(1e-3)
    decayed = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
    return objective, decayed


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def turn(call: Callable[[], Any], seconds: float) -> float:
    """Seconds per call, over calls that together take about as long as asked."""
    call()
    calls = max(1, round(seconds / timed(call)))
    return timed(lambda: [call() for _ in range(calls)]) / calls


def steps(workloads: tuple[str, ...], batch_size: int, turns: int, seconds: float) -> None:
    """Print step times, beside PyTorch's."""
    peer = torch_peer()
    print(f"\nTraining step, float32, batch {batch_size}, {os.cpu_count()} cores")
    print("| network | parameters | ms | examples/s | compile s | PyTorch eager ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in workloads:
        split = images(MODELS[name][1])
        batch = split.batches(batch_size)[0]
        ours = Ours(name, batch, split)
        theirs = functools.partial(peer_turn, peer, name, batch, seconds, ours.parameters)
        pairs = [(turn(ours, seconds), theirs()) for _ in range(turns)]
        print(row(name, ours, batch_size, pairs), flush=True)


def torch_peer() -> ProcessPoolExecutor | None:
    """A process for PyTorch, or None where it is not installed.

    In one process, the threads of the one wait actively while the other computes.
    """
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: its columns stay empty")
        return None
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def peer_turn(
    peer: ProcessPoolExecutor | None, name: str, batch: Any, seconds: float, parameters: int
) -> float | None:
    """Seconds of the peer's step."""
    if peer is None:
        return None
    theirs, count = peer.submit(torch_turn, name, batch, seconds).result()
    assert count == parameters, f"{name}: {count} parameters there, {parameters} here"
    return theirs


def torch_turn(name: str, batch: Any, seconds: float) -> tuple[float, int]:
    """In the peer's process: seconds per step, and the number of parameters."""
    import torch_twins

    return turn(
        torch_twins.make_step(name, batch, os.cpu_count() or 1), seconds
    ), torch_twins.count(name)


def row(name: str, ours: Ours, batch_size: int, pairs: list[tuple[float, float | None]]) -> str:
    """A line of the table of steps; the ratio is of speeds, above 1 where ours is faster."""
    mine = median(pair[0] for pair in pairs)
    ratios = [theirs / own for own, theirs in pairs if theirs]
    peer = f"{1000 * median(t for _, t in pairs if t):.1f}" if ratios else ""
    spread = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""
    return (
        f"| {name} | {ours.parameters:,} | {1000 * mine:.1f} | {batch_size / mine:,.0f} | "
        f"{ours.compile_seconds:.1f} | {peer} | {spread} |"
    )


def start() -> None:
    """Print the time from a command to its first step, with an empty and a filled cache."""
    imports = median(
        timed(lambda: subprocess.run([sys.executable, "-c", "import jax, flax.linen"], check=True))
        for _ in range(5)
    )
    print("\nFrom the command to the first step of cnn_digits")
    print(f"import of jax and flax: {imports:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        cold = first_step(Path(folder), 0)
        warm = median(first_step(Path(folder), n) for n in range(1, 6))
    print(f"cold: {cold:.2f} s; warm: {warm:.2f} s, {warm / imports:.2f} times the import")


def first_step(folder: Path, n: int) -> float:
    """Seconds until a run has reported its first step; programs are cached in `folder`."""
    script = ROOT / "experiments" / "cnn_digits.py"
    arguments = ["--steps", "20", "--out", folder / f"run-{n}"]
    environment = {**os.environ, "JAXMODELS_CACHE": str(folder / "cache")}
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("step 1/"):
                seconds = time.perf_counter() - begin
                process.communicate()
                return seconds
    raise RuntimeError(f"{script} ended without a first step")


def input_pipeline(batch_size: int, turns: int, seconds: float) -> None:
    """Print the time of a batch from memory, and how many a LeNet step leaves room for."""
    split = images((28, 28, 1), 60_000)
    batches, mesh = split.batches(batch_size), sharding.mesh(devices=jax.devices()[:1])
    numbers = iter(range(1_000_000_000))
    read = median(turn(lambda: batches[next(numbers)], seconds / 4) for _ in range(turns))
    fed = median(
        turn(
            lambda: jax.block_until_ready(sharding.feed(batches[next(numbers)], mesh)), seconds / 4
        )
        for _ in range(turns)
    )
    step = median(turn(Ours("lenet", batches[0], split), seconds / 4) for _ in range(turns))
    print(f"\nInput: 60,000 images of 28x28 in memory, batch {batch_size}")
    print(f"read: {1e6 * read:.0f} us, {batch_size / read:,.0f} images/s")
    print(f"read and on the device: {1e6 * fed:.0f} us")
    print(f"a step of LeNet: {1e3 * step:.1f} ms, {step / fed:.0f} times as long")


def checkpoints(megabytes: int, turns: int) -> None:
    """Print how fast a state is saved and restored, and how long the loop waits for a save."""
    keys = jax.random.split(jax.random.key(0), 10)
    state = {f"layer{n}": jax.random.normal(key, (megabytes, 25_000)) for n, key in enumerate(keys)}
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    blocked, whole, restored = [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep=1) as saved:
        for n in range(turns):
            blocked.append(timed(functools.partial(saved.save, n, state)))
            whole.append(blocked[-1] + timed(saved.wait))
            restored.append(timed(lambda: jax.block_until_ready(saved.restore_latest(like))))
    print(f"\nCheckpoints of {megabytes} MB, with checksums")
    print(f"the loop waits: {1e3 * median(blocked):.0f} ms")
    print(f"on disk after: {median(whole):.2f} s; restored and verified: {median(restored):.2f} s")


if __name__ == "__main__":
    tyro.cli(benchmark)
