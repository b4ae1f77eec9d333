"""Parser of XLA's HLO text: instructions, and how often each is executed."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}


def _nested(depth: int) -> str:
    """A regular expression for text with balanced parentheses, nested at most `depth` deep."""
    inside = r"[^()]*"
    for _ in range(depth):
        inside = rf"[^()]*(?:\({inside}\)[^()]*)*"
    return inside


# Layouts of arrays hold parentheses; tuples have them around arrays and tuples.
_INSTRUCTION = re.compile(
    rf"\s+(ROOT )?%?([\w.-]+) = (\({_nested(5)}\)|\S+) ([\w-]+)\(({_nested(5)})\)(.*)"
)
_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) .*\{$")
_LAYOUT = re.compile(r"\{[^}]*\}|/\*.*?\*/")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLS = re.compile(
    r"\b(?:calls|to_apply|body|(?:true|false)_computation|(?:branch|called)_computations)="
    r"(\{[^}]*\}|[%\w.-]+)"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of an array: XLA's dtype name, and the dimensions as text, such as `8,128`."""

    dtype: str
    dims: str

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.dims.split(",") if size)

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.dtype) or int(re.sub(r"\D", "", self.dtype) or 8)
        return math.prod(self.sizes) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line, such as `%sum = f32[8,4] add(%x, %y), metadata={}`.

    Attributes:
        name: the name of its result.
        type: the type of its result, as text without layouts.
        operation: the opcode, such as `add`.
        operands: as text; the value of a constant.
        attributes: the text after the operands.
    """

    name: str
    type: str
    operation: str
    operands: str
    attributes: str

    @property
    def inputs(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.operands)

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of all arrays in the result."""
        return shapes(self.type)

    @property
    def called(self) -> list[str]:
        """The names of the computations that it calls."""
        return [
            name
            for names in _CALLS.findall(self.attributes)
            for name in re.findall(r"[\w.-]+", names)
        ]

    def attribute(self, name: str, value: str = r"%?([\w.-]+)") -> str:
        """The value of an attribute as text; "" where it has none."""
        found = re.search(rf"\b{name}={value}", self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation (function) of a program: instructions by name, in order, and the root."""

    instructions: Mapping[str, Instruction]
    root: Instruction

    def source(self, name: str) -> Instruction:
        """The instruction of this name; copies are followed to what they copy."""
        found = self.instructions[name]
        return self.source(found.inputs[0]) if found.operation == "copy" else found


@dataclasses.dataclass(frozen=True)
class Program:
    """An HLO module: what one device executes.

    Attributes:
        devices: number of devices that execute it.
        computations: by name; the entry computation is called ENTRY.
        runs: executions of each computation; every branch of a conditional counts as taken.
        unknown_loops: loops of unknown length, whose bodies are counted once.
    """

    devices: int
    computations: Mapping[str, Computation]
    runs: Mapping[str, int]
    unknown_loops: tuple[str, ...]

    def executed_instructions(self) -> Iterator[tuple[Instruction, str, int]]:
        """Yield (instruction, name of its computation, number of executions)."""
        for name, computation in self.computations.items():
            if self.runs.get(name):
                for instruction in computation.instructions.values():
                    yield instruction, name, self.runs[name]


def shapes(text: str) -> list[Shape]:
    """The shapes of all arrays in the text of a type."""
    return [Shape(*array) for array in _ARRAY.findall(text)]


def parse_hlo(text: str) -> Program:
    """Parse a compiled program's text (`compiled.as_text()`)."""
    head = text[: text.find("\n")]
    counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", head)
    computations = _computations(text)
    runs, unknown = _runs(computations)
    return Program(math.prod(map(int, counts)), computations, runs, tuple(unknown))


def _computations(text: str) -> dict[str, Computation]:
    found: dict[str, Computation] = {}
    name, instructions, root = "", {}, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, instructions, root = "ENTRY" if header[1] else header[2], {}, None
        elif match := _INSTRUCTION.match(line):
            is_root, own, result, operation, operands, attributes = match.groups()
            made = Instruction(own, _LAYOUT.sub("", result), operation, operands, attributes)
            instructions[own] = made
            root = made if is_root else root
        elif line.startswith("}") and root is not None:
            found[name] = Computation(instructions, root)
    return found


def _runs(computations: Mapping[str, Computation]) -> tuple[Mapping[str, int], list[str]]:
    """Executions of each computation, from the entry down, and the loops of unknown length."""
    runs: collections.Counter[str] = collections.Counter()
    unknown: dict[str, None] = {}

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for instruction in computations[name].instructions.values():
            if instruction.operation in ("async-update", "async-done"):
                continue  # they repeat the computation that async-start runs
            length: int | None = 1
            if instruction.operation == "while":
                length = _trip_count(instruction, computations[name], computations)
            if length is None:
                unknown[instruction.name] = None
            for called in instruction.called:
                if called in computations:
                    visit(called, times * (length or 1))

    visit("ENTRY", 1)
    return runs, list(unknown)


def _trip_count(
    loop: Instruction, caller: Computation, computations: Mapping[str, Computation]
) -> int | None:
    """Trip count of a loop, as the compiler states it or as its counter implies; None if unknown.

    The counter is one of the loop's carried values: it starts at a constant, is compared with a
    constant, and a constant is added to it in each iteration.
    """
    known = re.search(r"known_trip_count[^\d]*(\d+)", loop.attributes)
    if known:
        return int(known[1])
    condition, body = (computations[loop.attribute(name)] for name in ("condition", "body"))
    start, test = caller.source(loop.inputs[0]), condition.root
    if (start.operation, test.operation, body.root.operation) != ("tuple", "compare", "tuple"):
        return None
    counter, limit = map(condition.source, test.inputs)
    place = counter.attribute("index")
    if not place or test.attribute("direction") != "LT":
        return None
    begin = caller.source(start.inputs[int(place)])
    added = body.source(body.root.inputs[int(place)])
    steps = map(body.source, added.inputs if added.operation == "add" else ())
    step = next((part for part in steps if part.operation == "constant"), added)
    if {begin.operation, limit.operation, step.operation} != {"constant"}:
        return None
    first, last, by = (int(part.operands) for part in (begin, limit, step))
    return -(-(last - first) // by)
