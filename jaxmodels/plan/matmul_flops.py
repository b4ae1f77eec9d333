"""FLOPs of matrix products and convolutions in a compiled program (HLO)."""

import math
import re

import numpy as np

from jaxmodels.plan.hlo import Computation, Instruction, Program


def matmul_flops(program: Program) -> int:
    """FLOPs of one device in matrix products and convolutions; a multiply-add counts as two.

    Where a mesh axis does not split a product, each of its devices computes all of it. XLA's own
    cost analysis counts a loop's body once.
    """
    return sum(
        times * COUNTED[instruction.operation](instruction, program.computations[name])
        for instruction, name, times in program.executed_instructions()
        if instruction.operation in COUNTED and "f" in instruction.shapes[0].dtype
    )


def _dot(dot: Instruction, within: Computation) -> int:
    lhs, _ = _operands(dot, within)
    dims = dot.attribute("lhs_contracting_dims", r"\{([\d,]*)\}")
    contracted = [lhs[int(dim)] for dim in dims.split(",") if dim]
    return 2 * math.prod(dot.shapes[0].sizes) * math.prod(contracted)


def _convolution(convolution: Instruction, within: Computation) -> int:
    """A convolution; libtpu turns all products into these, heads into dilated windows."""
    lhs, rhs = _operands(convolution, within)
    out = convolution.shapes[0].sizes
    labels = convolution.attribute("dim_labels", r"([\w>-]+)")
    of_lhs, of_rhs, of_out = re.split("_|->", labels)
    pairs = 1
    for k in range(len(out) - 2):
        sizes = lhs[of_lhs.index(str(k))], out[of_out.index(str(k))]
        pairs *= _pairs(*sizes, _window(convolution, k))
    groups = int(convolution.attribute("batch_group_count") or 1)
    batch = lhs[of_lhs.index("b")] // groups
    return 2 * batch * out[of_out.index("f")] * rhs[of_rhs.index("i")] * pairs


COUNTED = {"dot": _dot, "convolution": _convolution}


def _operands(product: Instruction, within: Computation) -> tuple[tuple[int, ...], ...]:
    return tuple(within.instructions[name].shapes[0].sizes for name in product.inputs)


def _window(convolution: Instruction, dim: int) -> dict[str, int]:
    """`size`, `stride`, `pad` (before), `lhs_dilate`, `rhs_dilate` of one spatial dimension."""
    text = convolution.attribute("window", r"\{(.*?)\}")
    parts = (part.split("=") for part in text.split())
    return {name: int(values.split("x")[dim].split("_")[0]) for name, values in parts}


def _pairs(inputs: int, outputs: int, window: dict[str, int]) -> int:
    """Number of (output, tap) pairs that read an input, not padding or a gap of a dilated array."""
    taps = np.arange(window.get("size", 1)) * window.get("rhs_dilate", 1)
    first = np.arange(outputs) * window.get("stride", 1) - window.get("pad", 0)
    positions, gap = np.add.outer(first, taps), window.get("lhs_dilate", 1)
    return int(np.sum((positions >= 0) & (positions % gap == 0) & (positions // gap < inputs)))
