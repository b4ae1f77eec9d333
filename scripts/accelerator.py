"""Benchmark of one GPU or TPU: GPT-2 small, ResNet-50 and decoding, against PyTorch.

If PyTorch is installed and has the same device, it alternates with ours in its own process, as in
`benchmark.py`: the same sizes and optimizer in bfloat16, with `torch.compile`, flash attention,
fused optimizers, channels last. Batches are random and made once.

Targets: GPT-2 small with 1,024 tokens at 50 % MFU or more, and faster than PyTorch;
ResNet-50 faster than PyTorch with channels last in bfloat16.

    uv run --extra cuda --with torch scripts/accelerator.py
    uv run --extra cuda --with torch scripts/accelerator.py --workloads gpt2 --batch-size 32 \
        --losses whole chunks --attention xla cudnn --unroll 1 12
    uv run --extra cuda scripts/accelerator.py --no-torch --flags latency-hiding command-buffers
    uv run --extra tpu scripts/accelerator.py
"""

import dataclasses
import functools
import importlib.metadata
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from statistics import median
from typing import Any, Literal, get_args
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from benchmark import Ours, beside, timed, torch_peer
from workloads import Workload, momentum, tokens
from xla_flags import FLAGS, Flag

from jaxmodels import chips, flops, generate, objectives, sharding, train, tree
from jaxmodels.adapters import Adapter, Cast
from jaxmodels.kernels.attention import attend
from jaxmodels.layers.attention import Attend
from jaxmodels.models import causal_lm, resnet

Name = Literal["gpt2", "resnet50", "decode"]
Loss = Literal["whole", "chunks"]
Kernel = Literal["chosen", "xla", "cudnn"]

BASE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""By default jax preallocates three quarters of the memory; PyTorch needs some of it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured; medians are over the turns."""

    workloads: tuple[Name, ...] = get_args(Name)
    turns: int = 7
    """How often ours and PyTorch alternate."""
    steps: int = 20
    """Steps of training a turn, of which only the last is waited for; texts have one a turn."""
    batch_size: int | None = None
    """Rows; if absent, 16 of GPT-2, 256 images, 1 and 64 texts."""
    losses: tuple[Loss, ...] = ("whole",)
    """GPT-2's logits of all tokens at once, or in chunks."""
    attention: tuple[Kernel, ...] = ("chosen",)
    """GPT-2's kernel of attention: what the library chooses, or always this one."""
    unroll: tuple[int, ...] = (1,)
    """How many of GPT-2's blocks a turn of their loop computes."""
    torch: bool = True
    """Whether PyTorch takes turns."""
    compiled: bool = True
    """Whether PyTorch trains through `torch.compile`."""
    flags: tuple[Flag, ...] = ()
    """First measure ours alone under each of these, in processes of their own."""
    tiny: bool = False
    """Small networks, to try the script on a CPU."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the networks, GPT-2 small and ResNet-50."""

    vocab: int = 50_257
    context: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    prompt: int = 16
    length: int = 256
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    classes: int = 1000
    pixels: int = 224
    rows: tuple[tuple[Name, tuple[int, ...]], ...] = (
        ("gpt2", (16,)),
        ("resnet50", (256,)),
        ("decode", (1, 64)),
    )


TINY = Sizes(
    *(64, 32, 32, 2, 2),
    *(4, 8),
    *((1,), (8,), 10, 16),
    (("gpt2", (2,)), ("resnet50", (4,)), ("decode", (1, 2))),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table."""

    workload: Name
    sizes: Sizes
    rows: int
    loss: Loss = "whole"
    attention: Kernel = "chosen"
    unroll: int = 1

    def __str__(self) -> str:
        if self.workload != "gpt2":
            return self.workload
        return f"gpt2, {self.loss}, {self.attention}, unroll {self.unroll}"

    def batch(self) -> dict[str, np.ndarray]:
        """Inputs and targets, the same in every process."""
        sizes, rng = self.sizes, np.random.default_rng(0)
        if self.workload == "gpt2":
            one, two = tokens(sizes.vocab, 2, self.rows, sizes.context)
            return {"tokens": one, "targets": two}
        shape = self.rows, sizes.pixels, sizes.pixels, 3
        labels = rng.integers(0, sizes.classes, self.rows).astype(np.int32)
        return {"image": rng.standard_normal(shape, np.float32), "label": labels}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a case took; seconds are of a step, or of a token of each row."""

    case: Case
    parameters: int
    unit: str
    examples: int
    compile_seconds: float
    operations: int | None
    pairs: list[tuple[float, float | None]]

    @property
    def seconds(self) -> float:
        """Ours."""
        return median(own for own, _ in self.pairs)

    @property
    def peer_seconds(self) -> float | None:
        """PyTorch's."""
        found = [theirs for _, theirs in self.pairs if theirs]
        return median(found) if found else None

    def utilisation(self, peak: float | None, seconds: float | None) -> float | None:
        """The share of the peak that takes so long; None where one of them is unknown."""
        if not (peak and seconds and self.operations):
            return None
        return self.operations / (seconds * peak)


def accelerator(options: Options) -> list[Result]:
    """Measure, print, and return what the main table holds."""
    with mock.patch.dict(os.environ, {**BASE, **os.environ}):
        # First, for a device can belong to one process only, and memory to what holds it.
        if options.flags:
            print_flags(options)
        device = jax.devices()[0]
        peer_name = print_header(options, device)
        chip = chips.device_chip(device)
        results = []
        for case in cases(options):
            results.append(measured(case, options, peer_name is not None))
            print(row(results[-1], chip.flops if chip else None), flush=True)
        return results


def cases(options: Options) -> list[Case]:
    """All rows of the table."""
    sizes, found = TINY if options.tiny else Sizes(), []
    for name in options.workloads:
        rows = (options.batch_size,) if options.batch_size else dict(sizes.rows)[name]
        each: list[Any] = [()]
        if name == "gpt2":
            each = list(itertools.product(options.losses, options.attention, options.unroll))
        found += [Case(name, sizes, n, *variant) for variant in each for n in rows]
    return found


def measured(case: Case, options: Options, beside_torch: bool) -> Result:
    """Ours and PyTorch's in turns."""
    make, steps = (Texts, 1) if case.workload == "decode" else (Steps, options.steps)
    ours = make(case)
    pairs = []
    for _ in range(options.turns):
        own = turn(ours.run, steps) / ours.tokens_each
        theirs = peer_turn(case, steps, options.compiled, ours) if beside_torch else None
        pairs.append((own, theirs))
    release_peer()
    work, count = ours.work, operations(case)
    sizes = work.unit, work.examples, ours.compile_seconds
    return Result(case, ours.parameters, *sizes, count, pairs)


def turn(run: Any, steps: int) -> float:
    """Seconds of a step, after one that wakes the device up."""
    run(1)
    return timed(lambda: run(steps)) / steps


def work_of(case: Case) -> Workload:
    """What a case trains, in float32."""
    if case.workload == "resnet50":
        sizes = case.sizes
        parts = resnet.Bottleneck, resnet.imagenet_stem, resnet.project_shortcut
        model = resnet.ResNet(sizes.classes, sizes.blocks, sizes.widths, *parts)
        objective = objectives.classification(model)
        return Workload(objective, momentum(), case.batch(), "images", case.rows)
    losses = {"whole": objectives.next_token, "chunks": objectives.next_token_in_chunks}
    optimizer = optax.adamw(6e-4, b2=0.95, weight_decay=0.1)
    objective = losses[case.loss](gpt(case))
    count = case.rows * case.sizes.context
    return Workload(objective, optimizer, case.batch(), "tokens", count)


def gpt(case: Case) -> causal_lm.CausalLM:
    """GPT-2 small, or its tiny form."""
    sizes = case.sizes
    widths = sizes.width, sizes.depth, sizes.heads
    return causal_lm.gpt2(
        sizes.vocab, sizes.context, *widths, attend=attend_by(case.attention), unroll=case.unroll
    )


class Steps(Ours):
    """Training in bfloat16."""

    tokens_each = 1

    def __init__(self, case: Case) -> None:
        work = work_of(case)
        model = Cast(work.objective.model)
        objective = dataclasses.replace(work.objective, model=model)
        super().__init__(dataclasses.replace(work, objective=objective))

    def run(self, times: int) -> None:
        """Take steps, and wait for the last one's state."""
        for _ in range(times):
            self.state, _ = self.step(self.state, self.fed)
        jax.block_until_ready(self.state)


@dataclasses.dataclass(frozen=True)
class Half(Adapter):
    """A model whose variables are bfloat16 from the start, and so its cache.

    `Cast` would cast all params again for each token, and leaves a cache in float32.
    """

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the variables."""
        return half(super().init(rngs, *args, **kwargs))


def half(variables: Any) -> Any:
    """Floats in bfloat16."""
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        variables,
    )


class Texts:
    """Greedy decoding in bfloat16."""

    def __init__(self, case: Case) -> None:
        self.model, self.tokens_each = Half(gpt(case)), case.sizes.length
        self.prompt = jnp.full((case.rows, case.sizes.prompt), 5, jnp.int32)
        self.variables = jax.jit(self.model.init)(jax.random.key(0), self.prompt)
        self.parameters = tree.parameter_count(self.variables["params"])
        self.work = Workload(None, optax.identity(), {}, "tokens", case.rows)
        self.compile_seconds = timed(lambda: self.run(1))

    def run(self, times: int) -> None:
        """Write texts, and wait for the last."""
        for n in range(times):
            key = jax.random.key(n)
            written = generate.sample(
                self.model, self.variables, self.prompt, self.tokens_each, key
            )
            jax.block_until_ready(written)


@functools.cache
def attend_by(kernel: Kernel) -> Attend:
    """Attention by this kernel of jax's, whatever the library would choose."""
    if kernel == "chosen":
        return attend

    def attend_by_kernel(
        q: Any,
        k: Any,
        v: Any,
        mask: Any = None,
        bias: Any = None,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
    ) -> Any:
        if window is not None:
            raise ValueError("this benchmark's attention has no window")
        options: dict[str, Any] = {"is_causal": causal, "scale": scale, "implementation": kernel}
        return jax.nn.dot_product_attention(q, k, v, bias, mask, **options)

    return attend_by_kernel


def operations(case: Case) -> int | None:
    """Floating point operations of a step's matrix products and convolutions.

    Those of the model, as in PaLM's appendix B: of the step in which nothing is computed again and
    whose attention is written out, whichever variant is measured. Texts have none: what bounds
    them is the memory.
    """
    if case.workload == "decode":
        return None
    # A fused kernel's products are in no jaxpr.
    work = work_of(dataclasses.replace(case, loss="whole", attention="xla"))
    parts = work.objective, work.optimizer
    mesh = sharding.mesh(devices=jax.devices()[:1])
    state = train.abstract_state(*parts, work.batch, mesh)
    return flops.count(train.update(*parts), state, work.batch).matmul


def peer_turn(case: Case, steps: int, compiled: bool, ours: Steps | Texts) -> float:
    """PyTorch's seconds, in its own process."""
    peer = torch_peer()
    assert peer is not None
    theirs, count = peer.submit(torch_turn, case, steps, compiled).result()
    assert count == ours.parameters, f"{case}: {count} parameters there, {ours.parameters} here"
    return theirs / ours.tokens_each


def torch_turn(case: Case, steps: int, compiled: bool) -> tuple[float, int]:
    """In the peer's process: seconds of a step or text, and the number of parameters."""
    import torch_accelerator

    return turn(torch_accelerator.ready(case, compiled), steps), torch_accelerator.count(case)


def torch_place() -> tuple[str, str]:
    """In the peer's process: its platform and versions."""
    import torch_accelerator

    return torch_accelerator.place()


def release_peer() -> None:
    """End the peer's process, and with it what it holds of the device; the next case has a new."""
    if torch_peer.cache_info().currsize and (peer := torch_peer()):
        peer.shutdown()
        torch_peer.cache_clear()


def print_header(options: Options, device: Any) -> str | None:
    """Say what is measured on what; return what PyTorch is there to compare with, if any."""
    versions = [f"{name} {found}" for name in PACKAGES if (found := version(name))]
    print(f"\n{device.device_kind} ({device.platform}), one of {jax.device_count()}")
    print(f"{', '.join(versions)}; {device.client.platform_version.strip()!r}")
    print(f"XLA_FLAGS: {os.environ.get('XLA_FLAGS') or 'none'}")
    peer_name = peer_on(device) if options.torch else None
    if peer_name:
        print(f"{peer_name}, {'compiled' if options.compiled else 'eager'}")
    chip = chips.device_chip(device)
    peak = f"{chip.flops / 1e12:,.0f} TFLOP/s of {chip.name}" if chip else "an unknown peak: none"
    print(
        "Utilisation: matrix products and convolutions of forward and backward pass, a causal "
        f"mask's zeros among them, nothing computed again; over {peak}\n"
        f"Step, bfloat16, medians of {options.turns} turns; of texts, a token of each row\n"
    )
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    return peer_name


PACKAGES = (
    *("jax", "jaxlib", "flax", "libtpu"),
    *(f"jax-cuda{n}-plugin" for n in (12, 13)),
    *(f"nvidia-cudnn-cu{n}" for n in (12, 13)),
)
HEAD = (
    *("workload", "parameters", "rows", "ms", "per second", "utilisation", "first call, s"),
    *("PyTorch, ms", "ratio", "PyTorch's utilisation"),
)


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def peer_on(device: Any) -> str | None:
    """PyTorch's versions where it computes on the same kind of device; says why if not."""
    peer = torch_peer()
    if peer is None:
        return None
    platform, versions = peer.submit(torch_place).result()
    if platform == device.platform:
        return versions
    print(f"{versions} computes on {platform}, not {device.platform}: its columns stay empty")
    return None


def row(result: Result, peak: float | None) -> str:
    """A line of the table; the ratio is of speeds, above 1 where ours is faster."""
    own, theirs = (
        "" if share is None else f"{share:.1%}"
        for share in (
            result.utilisation(peak, result.seconds),
            result.utilisation(peak, result.peer_seconds),
        )
    )
    return (
        f"| {result.case} | {result.parameters:,} | {result.case.rows} "
        f"| {1000 * result.seconds:.2f} | {result.examples / result.seconds:,.0f} {result.unit} "
        f"| {own} | {result.compile_seconds:.1f} | {beside(result.pairs, 1000)} | {theirs} |"
    )


def print_flags(options: Options) -> None:
    """Print how much faster each set of flags makes ours; the second `none` is the noise."""
    print("\n| flags | workload | rows | ms | speed relative to none |\n|---|---|---|---|---|")
    none: dict[Case, float] = {}
    for name in ("none", *options.flags, "none"):
        found = under(FLAGS.get(name, {}), options)
        if found is None:
            print(f"| {name} | its process ended; its own words are above | | | |", flush=True)
            continue
        none = none or found
        for case, seconds in found.items():
            ratio = f"{none[case] / seconds:.3f}" if case in none else ""
            print(f"| {name} | {case} | {case.rows} | {1000 * seconds:.2f} | {ratio} |", flush=True)


def under(environment: dict[str, str], options: Options) -> dict[Case, float] | None:
    """Ours alone, in a process with this added to its environment; None if it was ended."""
    given = os.environ.get("XLA_FLAGS", "")
    flags = f"{given} {environment.get('XLA_FLAGS', '')}".strip()
    context = multiprocessing.get_context("spawn")
    added = mock.patch.dict(os.environ, {**environment, "XLA_FLAGS": flags})
    with added, ProcessPoolExecutor(1, context) as process:
        try:
            return process.submit(alone, options).result()
        except BrokenProcessPool:
            return None


def alone(options: Options) -> dict[Case, float]:
    """Seconds of each case, without PyTorch."""
    return {case: measured(case, options, False).seconds for case in cases(options)}


if __name__ == "__main__":
    accelerator(tyro.cli(Options))
