"""The matrix products and convolutions of a compiled program."""

import math
import re

import numpy as np

from jaxmodels.plan.hlo import Computation, Instruction, Program


def operations(program: Program) -> int:
    """Floating point operations in products on one device, of a multiplication and an addition two.

    Where an axis of the mesh does not split a product, all its devices compute the whole of it.
    XLA's own count takes a loop's body once.
    """
    return sum(
        times * COUNTED[instruction.operation](instruction, program.computations[name])
        for instruction, name, times in program.each()
        if instruction.operation in COUNTED and "f" in instruction.shapes[0].dtype
    )


def _dot(dot: Instruction, within: Computation) -> int:
    lhs, _ = _operands(dot, within)
    dims = dot.attribute("lhs_contracting_dims", r"\{([\d,]*)\}")
    contracted = [lhs[int(dim)] for dim in dims.split(",") if dim]
    return 2 * math.prod(dot.shapes[0].sizes) * math.prod(contracted)


def _convolution(convolution: Instruction, within: Computation) -> int:
    """libtpu makes all products convolutions, of batches and heads windows over dilated arrays."""
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
    """Of one spatial dimension: `size`, `stride`, `pad` (before), `lhs_dilate`, `rhs_dilate`."""
    text = convolution.attribute("window", r"\{(.*?)\}")
    parts = (part.split("=") for part in text.split())
    return {name: int(values.split("x")[dim].split("_")[0]) for name, values in parts}


def _pairs(inputs: int, outputs: int, window: dict[str, int]) -> int:
    """How often a tap meets an input: neither padding nor a gap of a dilated array."""
    taps = np.arange(window.get("size", 1)) * window.get("rhs_dilate", 1)
    first = np.arange(outputs) * window.get("stride", 1) - window.get("pad", 0)
    at, gap = np.add.outer(first, taps), window.get("lhs_dilate", 1)
    return int(np.sum((at >= 0) & (at % gap == 0) & (at // gap < inputs)))
