"""Compile a lowered step ahead of time, and read memory, FLOPs and collectives from the result."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxmodels.plan.collectives import CollectiveSummary, summarize_collectives
from jaxmodels.plan.hlo import parse_hlo
from jaxmodels.plan.matmul_flops import matmul_flops
from jaxmodels.plan.target import Target

_NO_ROOM = re.compile(r"RESOURCE_EXHAUSTED: .*\((.+)\) exceeds available HBM \((.+)\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """The fields of `Plan` that need the compiler; only the first two without room."""

    memory: Mapping[str, int]
    memory_limit: int | None
    device_matmul_flops: int | None = None
    collectives: tuple[CollectiveSummary, ...] | None = None
    uncounted: tuple[str, ...] = ()


def compile_step(lowered: Any, held: Mapping[str, int], target: Target) -> CompiledStep:
    """Compile a lowered step whose arguments take `held` bytes on a device.

    libtpu does not compile a step that needs more than a chip's memory, less what it reserves; its
    error gives both numbers.
    """
    try:
        with _uncached():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = _NO_ROOM.search(str(error))
        if sizes is None:
            raise
        needed, limit = map(_bytes, sizes.groups())
        return CompiledStep(_with_temporaries(held, needed), limit)
    program = parse_hlo(compiled.as_text())
    analysis = compiled.memory_analysis()
    code = analysis.generated_code_size_in_bytes
    return CompiledStep(
        {**_with_temporaries(held, _total(analysis)), "program": code},
        target.chip and target.chip.memory,
        matmul_flops(program),
        tuple(summarize_collectives(program)),
        tuple(
            f"{loop}: a compiled loop of unknown length, counted once"
            for loop in program.unknown_loops
        ),
    )


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Disable the compilation cache: programs for absent devices cannot be read back from it."""
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax decides once whether to use a cache
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _total(analysis: Any) -> int:
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _with_temporaries(held: Mapping[str, int], whole: int) -> dict[str, int]:
    """Add the temporaries; the compiler's padding of arguments counts as temporary."""
    return {**held, "temporaries": max(0, whole - sum(held.values()))}


def _bytes(size: str) -> int:
    """The number of bytes in a text such as `15.75G`."""
    return int(float(size[:-1]) * _UNITS[size[-1]])
