"""The collectives of a compiled program: which, how often, how much."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}

_OPERATION = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.-]+) (?:\(.*)?.*\{$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
        kind: as XLA calls it.
        count: how many are run in a step.
        bytes: of their results on one device, in a step.
    """

    kind: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of an array: its type, as XLA calls it, and its dimensions as text, such as `8,128`."""

    dtype: str
    dims: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the dimensions."""
        return tuple(int(size) for size in self.dims.split(",") if size)

    @property
    def bytes(self) -> int:
        """Of all elements."""
        bits = BITS.get(self.dtype) or int(re.sub(r"\D", "", self.dtype) or 8)
        return math.prod(self.sizes) * bits // 8


def found(hlo: str) -> list[Collective]:
    """The collectives in a compiled program's text, those in loops times the loops' lengths."""
    count: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    for kind, shapes, times in each(hlo):
        count[kind] += times
        total[kind] += times * sum(shape.bytes for shape in shapes)
    return [Collective(kind, count[kind], total[kind]) for kind in KINDS if count[kind]]


def each(hlo: str) -> Iterator[tuple[str, list[Shape], int]]:
    """Kind, results on one device, and number of runs of each collective in a program's text."""
    computations = _computations(hlo)
    runs = _runs(computations)
    channels = set()
    for name, lines in computations.items():
        for line in lines:
            operation = _OPERATION.search(line)
            if operation is None or not runs[name]:
                continue
            # libtpu writes one that runs beside other work once for each piece of that work.
            channel = re.search(r"channel_id=(\d+)", line)
            if channel and channel.group(1) in channels:
                continue
            channels.add(channel.group(1) if channel else line)
            text, kind, started = operation.groups()
            shapes = [Shape(*shape) for shape in _ARRAY.findall(text)]
            # What starts one gives its operands too.
            yield kind, shapes[1:2] if started and len(shapes) > 1 else shapes, runs[name]


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation, by name; the entry is called ENTRY."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in hlo.splitlines():
        header = _HEADER.match(line)
        if header:
            name = "ENTRY" if line.startswith("ENTRY") else header.group(1)
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def _runs(computations: dict[str, list[str]]) -> collections.Counter[str]:
    """How often each computation is run, from the entry down."""
    runs: collections.Counter[str] = collections.Counter()

    def visit(name: str, times: int) -> None:
        runs[name] = max(runs[name], times)
        for line in computations.get(name, ()):
            loop = _LOOP.search(line)
            length = _length(line, computations[loop.group(1)]) if loop else 1
            for called in _CALLED.findall(line):
                visit(called, times * (length if loop and called == loop.group(2) else 1))

    visit("ENTRY", 1)
    return runs


def _length(line: str, condition: list[str]) -> int:
    """How often a loop is run: as the compiler says, or as its condition compares."""
    known = re.search(r"known_trip_count[^\d]*(\d+)", line)
    if known:
        return int(known.group(1))
    limits = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return max(map(int, limits), default=1)
