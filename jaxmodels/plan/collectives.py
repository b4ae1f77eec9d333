"""The collectives of a compiled program: which, how often, how much."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from jaxmodels.plan.hlo import Instruction, Program, Shape, shapes

KINDS = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
        kind: as XLA calls it.
        count: how many are run in a step.
        bytes: that one device receives for them in a step.
    """

    kind: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Sent:
    """One collective of a program.

    Attributes:
        kind: as XLA calls it.
        shapes: of its results on one device.
        group: how many devices take part in it together.
        times: how often it is run in a step.
    """

    kind: str
    shapes: tuple[Shape, ...]
    group: int
    times: int

    @property
    def received(self) -> int:
        """Bytes that come in at one device each time, around a ring: no other way takes fewer."""
        result, others = sum(shape.bytes for shape in self.shapes), self.group - 1
        if self.kind == "collective-permute":
            return result
        if self.kind == "reduce-scatter":
            return others * result
        # A sum is scattered and then gathered.
        return (2 if self.kind == "all-reduce" else 1) * others * result // self.group


def found(program: Program) -> list[Collective]:
    """The collectives of a program, by kind."""
    count: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    for sent in each(program):
        count[sent.kind] += sent.times
        total[sent.kind] += sent.times * sent.received
    return [Collective(kind, count[kind], total[kind]) for kind in KINDS if count[kind]]


def each(program: Program) -> Iterator[Sent]:
    """Each collective of a program."""
    by_channel: dict[str, Sent] = {}
    for instruction, computation, times in program.each():
        kind = instruction.operation.removesuffix("-start")
        if kind not in KINDS:
            continue
        results = _results(instruction)
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            # libtpu writes a reduce-scatter as a fusion: a sum, and a slice of it.
            kind, results = "reduce-scatter", program.computations[computation].root.shapes
        sent = Sent(kind, tuple(results), _group(instruction, program.devices), times)
        # libtpu writes one that runs beside other work once for each piece of that work, also in
        # loops; it's run as often as the piece that is run least.
        channel = instruction.attribute("channel_id") or f"{computation}/{instruction.name}"
        by_channel[channel] = min(by_channel.get(channel, sent), sent, key=lambda one: one.times)
    yield from by_channel.values()


def _results(instruction: Instruction) -> list[Shape]:
    """The arrays that a collective makes; what starts one gives its operands before them."""
    starts = instruction.operation.endswith("-start")
    if not starts or instruction.operation == "all-reduce-start":
        return instruction.shapes
    _, results, *_ = re.findall(r"\([^()]*\)|[a-z]\w*\[[\d,]*\]", instruction.type[1:-1])
    return shapes(results)


def _group(instruction: Instruction, devices: int) -> int:
    """How many devices take part: `{{0,1},{2,3}}`, `[2,2]<=[4]`, or axes of a mesh."""
    text = instruction.attributes.partition("replica_groups=")[2]
    if listed := re.match(r"\{\{([\d,]*)\}", text):
        return len(listed[1].split(","))
    if iota := re.match(r"\[\d+,(\d+)\]", text):
        return int(iota[1])
    if named := re.match(r"mesh\[(.*?)\].*?\{('.*?)\}", text):
        sizes = dict(re.findall(r"('\w+')=(\d+)", named[1]))
        # Of an axis, or of a part of one: 'axis_0':(2)4 are 4 of its devices.
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices
