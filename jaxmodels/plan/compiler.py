"""What only the compiler tells of a step: its program, or that it takes too much memory."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxmodels.plan import collectives, hlo
from jaxmodels.plan.matmul_flops import operations
from jaxmodels.plan.target import Target

_NO_ROOM = re.compile(r"RESOURCE_EXHAUSTED: .*\((.+)\) exceeds available HBM \((.+)\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The fields of `Plan` that need the compiler; `unknown` is what it leaves uncounted."""

    memory: Mapping[str, int]
    limit: int | None
    products: int | None = None
    traffic: tuple[collectives.Collective, ...] | None = None
    unknown: tuple[str, ...] = ()


def attempt(lowered: Any, held: Mapping[str, int], target: Target) -> Compiled:
    """Compile a lowered step whose arguments take these bytes on a device.

    libtpu makes no program of a step that takes more than a chip's memory less what it keeps for
    itself; it only says how much both are.
    """
    try:
        with _uncached():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = _NO_ROOM.search(str(error))
        if sizes is None:
            raise
        needed, limit = map(_bytes, sizes.groups())
        return Compiled(_with_temporaries(held, needed), limit)
    program = hlo.read(compiled.as_text())
    analysis = compiled.memory_analysis()
    code = analysis.generated_code_size_in_bytes
    return Compiled(
        {**_with_temporaries(held, _whole(analysis)), "program": code},
        target.chip and target.chip.memory,
        operations(program),
        tuple(collectives.found(program)),
        tuple(f"{loop}: a compiled loop, counted once" for loop in program.unknown),
    )


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Without the persistent cache: what is there for absent devices cannot be read back."""
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else jax has settled on using one
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _whole(analysis: Any) -> int:
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _with_temporaries(held: Mapping[str, int], whole: int) -> dict[str, int]:
    """What the compiler pads arguments by counts as temporary."""
    return {**held, "temporaries": max(0, whole - sum(held.values()))}


def _bytes(size: str) -> int:
    """Of `15.75G`."""
    return int(float(size[:-1]) * _UNITS[size[-1]])
