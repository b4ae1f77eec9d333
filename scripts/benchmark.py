"""Benchmark on this machine: training steps, start-up, input, checkpoints, against PyTorch.

If PyTorch is installed, its eager mode alternates with ours, in its own process, and the ratio is
that of each pair of turns, since the machine's speed may drift. Use an idle machine: other load
slows PyTorch more, whose threads wait actively.

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
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import tyro
from workloads import WORKLOADS, Workload, images

from jaxmodels import generate, sharding, train, tree
from jaxmodels.experiment.malloc import keep_freed_memory
from jaxmodels.models import causal_lm
from jaxmodels.train.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent

Part = Literal["steps", "decoding", "start", "input", "checkpoints"]
Name = Literal["mlp", "lenet", "convnet", "resnet20", "lstm", "gpt4", "gpt6", "translator", "vae"]


def benchmark(
    parts: tuple[Part, ...] = ("steps", "decoding", "start", "input", "checkpoints"),
    workloads: tuple[Name, ...] = get_args(Name),
    compiled: bool = False,
    batch_size: int = 128,
    turns: int = 7,
    seconds: float = 1.0,
    megabytes: int = 100,
) -> None:
    """Run the benchmark and print tables.

    Args:
        parts: what to measure.
        workloads: which networks.
        compiled: compare with `torch.compile` (sequence models and the VAE), not with eager mode.
        batch_size: images per step; sequences have their papers' sizes.
        turns: how often ours and the peer alternate; medians are over these.
        seconds: how long a turn is, about.
        megabytes: size of the state of the checkpoint measurements.
    """
    keep_freed_memory()
    measure = {
        "steps": lambda: steps(workloads, batch_size, turns, seconds, compiled),
        "decoding": lambda: decoding(turns, seconds),
        "start": start,
        "input": lambda: input_pipeline(batch_size, turns, seconds),
        "checkpoints": lambda: checkpoints(megabytes, turns),
    }
    for part in parts:
        measure[part]()
    if torch_peer.cache_info().currsize and (peer := torch_peer()):
        peer.shutdown()


@dataclasses.dataclass
class Ours:
    """A training step of ours on one batch, ready to be called; counts its parameters."""

    work: Workload

    def __post_init__(self) -> None:
        mesh = sharding.mesh(devices=jax.devices()[:1])
        parts = self.work.objective, self.work.optimizer
        self.fed = sharding.shard_batch(self.work.batch, mesh)
        self.state = train.init(jax.random.key(0), *parts, self.work.batch, mesh)
        self.parameters = tree.parameter_count(self.state.params)
        self.step = train.make_step(*parts)
        self.compile_seconds = timed(self)

    def __call__(self) -> float:
        """Take a step and wait for it."""
        self.state, scalars = self.step(self.state, self.fed)
        return float(scalars["loss"])


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


def steps(
    workloads: tuple[str, ...], batch_size: int, turns: int, seconds: float, compiled: bool
) -> None:
    """Print step times, beside PyTorch's."""
    peer, mode = torch_peer(), "compiled" if compiled else "eager"
    print(f"\nTraining step, float32, {os.cpu_count()} cores; images in batches of {batch_size}")
    print(f"| network | parameters | ms | per second | compile s | PyTorch {mode} ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in workloads:
        work = WORKLOADS[name](batch_size)
        ours = Ours(work)
        call = name, work.batch, seconds, compiled
        theirs = functools.partial(peer_turn, peer, call, ours.parameters)
        pairs = [(turn(ours, seconds), theirs()) for _ in range(turns)]
        print(row(name, ours, pairs), flush=True)


@functools.cache
def torch_peer() -> ProcessPoolExecutor | None:
    """A process for PyTorch, or None where it is not installed.

    In one process, the threads of the one wait actively while the other computes.
    """
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: its columns stay empty")
        return None
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def peer_turn(peer: ProcessPoolExecutor | None, call: tuple, parameters: int) -> float | None:
    """Seconds of the peer's step."""
    if peer is None:
        return None
    theirs, count = peer.submit(torch_turn, *call).result()
    assert count == parameters, f"{call[0]}: {count} parameters there, {parameters} here"
    return theirs


def torch_turn(name: str, batch: Any, seconds: float, compiled: bool) -> tuple[float, int]:
    """In the peer's process: seconds per step, and the number of parameters."""
    import torch_twins

    step = torch_twins.make_step(name, batch, os.cpu_count() or 1, compiled)
    return turn(step, seconds), torch_twins.count(name)


def row(name: str, ours: Ours, pairs: list[tuple[float, float | None]]) -> str:
    """A line of the table of steps; the ratio is of speeds, above 1 where ours is faster."""
    mine, work = median(pair[0] for pair in pairs), ours.work
    return (
        f"| {name} | {ours.parameters:,} | {1000 * mine:.1f} | {work.examples / mine:,.0f} "
        f"{work.unit} | {ours.compile_seconds:.1f} | {beside(pairs, 1000)} |"
    )


def beside(pairs: list[tuple[float, float | None]], scale: float) -> str:
    """The peer's median and the ratio of speeds with its spread; nothing without a peer."""
    ratios = [theirs / own for own, theirs in pairs if theirs]
    if not ratios:
        return " | "
    peer = scale * median(theirs for _, theirs in pairs if theirs)
    return f"{peer:.1f} | {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def decoding(turns: int, seconds: float, rows: int = 16, length: int = 60) -> None:
    """Print how fast the small GPT writes, greedily and with its cache, beside PyTorch's."""
    peer, model = torch_peer(), causal_lm.nanogpt_cpu(unroll=4)
    prompt = jnp.full((rows, 1), 5, jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), prompt)

    def ours() -> Any:
        written = generate.sample(model, variables, prompt, length, jax.random.key(0))
        return jax.block_until_ready(written)

    def theirs() -> float | None:
        return peer and peer.submit(torch_decoding, rows, length, seconds).result()

    pairs = [(turn(ours, seconds), theirs()) for _ in range(turns)]
    speed = rows * length / median(own for own, _ in pairs)
    print(f"\nDecoding with the 4-layer GPT, {rows} rows of {length} tokens")
    print("| tokens/s | PyTorch eager ms | ratio |\n|---|---|---|")
    print(f"| {speed:,.0f} | {beside(pairs, 1000)} |")


def torch_decoding(rows: int, length: int, seconds: float) -> float:
    """In the peer's process: seconds to decode so much."""
    import torch_sequences

    return turn(torch_sequences.make_decode(rows, length, os.cpu_count() or 1), seconds)


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
            lambda: jax.block_until_ready(sharding.shard_batch(batches[next(numbers)], mesh)),
            seconds / 4,
        )
        for _ in range(turns)
    )
    lenet = Ours(WORKLOADS["lenet"](batch_size))
    step = median(turn(lenet, seconds / 4) for _ in range(turns))
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
