"""Collectives of a compiled program (HLO): kinds, counts and bytes received."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from jaxmodels.plan.hlo import Instruction, Program, Shape, shapes

KINDS = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"


@dataclasses.dataclass(frozen=True)
class CollectiveSummary:
    """All collectives of one kind.

    Attributes:
        kind: XLA's name, such as `all-gather`.
        count: number executed in a step.
        bytes: bytes that one device receives for them in a step.
    """

    kind: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class CollectiveOp:
    """One collective instruction.

    Attributes:
        kind: XLA's name, such as `all-gather`.
        shapes: the shapes of its results on one device.
        group_size: number of devices that take part.
        times: number of executions in a step.
    """

    kind: str
    shapes: tuple[Shape, ...]
    group_size: int
    times: int

    @property
    def bytes_received(self) -> int:
        """Bytes that one device receives per execution of a ring algorithm, which is optimal."""
        result, others = sum(shape.bytes for shape in self.shapes), self.group_size - 1
        if self.kind == "collective-permute":
            return result
        if self.kind == "reduce-scatter":
            return others * result
        # An all-reduce is a reduce-scatter and an all-gather.
        return (2 if self.kind == "all-reduce" else 1) * others * result // self.group_size


def summarize_collectives(program: Program) -> list[CollectiveSummary]:
    """Counts and bytes of a program's collectives, one summary for each kind."""
    count: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    for op in collective_ops(program):
        count[op.kind] += op.times
        total[op.kind] += op.times * op.bytes_received
    return [CollectiveSummary(kind, count[kind], total[kind]) for kind in KINDS if count[kind]]


def collective_ops(program: Program) -> Iterator[CollectiveOp]:
    """Yield each collective instruction of a program once."""
    by_channel: dict[str, CollectiveOp] = {}
    for instruction, computation, times in program.executed_instructions():
        kind = instruction.operation.removesuffix("-start")
        if kind not in KINDS:
            continue
        results = _results(instruction)
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            # libtpu writes a reduce-scatter as a fusion: a sum, and a slice of it.
            kind, results = "reduce-scatter", program.computations[computation].root.shapes
        op = CollectiveOp(kind, tuple(results), _group_size(instruction, program.devices), times)
        # libtpu repeats a collective that overlaps with computation once for each piece of the
        # latter, also in loops; it is executed as often as the piece that is executed least.
        channel = instruction.attribute("channel_id") or f"{computation}/{instruction.name}"
        by_channel[channel] = min(by_channel.get(channel, op), op, key=lambda one: one.times)
    yield from by_channel.values()


def _results(instruction: Instruction) -> list[Shape]:
    """The result arrays of a collective; the type of a `-start` lists its operands before them."""
    starts = instruction.operation.endswith("-start")
    if not starts or instruction.operation == "all-reduce-start":
        return instruction.shapes
    _, results, *_ = re.findall(r"\([^()]*\)|[a-z]\w*\[[\d,]*\]", instruction.type[1:-1])
    return shapes(results)


def _group_size(instruction: Instruction, devices: int) -> int:
    """Devices in a replica group: `{{0,1},{2,3}}`, `[2,2]<=[4]`, or axes of a mesh."""
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
