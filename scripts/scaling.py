"""Scaling table: ahead-of-time plans of GPT-2's and GPT-3's sizes on TPU slices.

    uv run --extra tpu scripts/scaling.py --sizes gpt2_small gpt2_xl --targets v5e:2x4 v5e:16x16
    uv run --extra tpu scripts/scaling.py --sizes gpt3_175b --targets v5p:8x8x16 --meshes fsdp=-1

Each row is a training step compiled ahead of time: AdamW, bfloat16 compute with float32 params,
full rematerialisation of the blocks, chunked cross-entropy. No TPU is needed.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tyro

from jaxmodels import objectives, plan, sharding, train
from jaxmodels.adapters.precision import Cast
from jaxmodels.adapters.remat import POLICIES
from jaxmodels.models import causal_lm
from jaxmodels.plan import Plan

SIZES = {
    name: getattr(causal_lm, name)
    for name in ("gpt2_small", "gpt2_medium", "gpt2_large", "gpt2_xl", "gpt3_175b")
}


@dataclasses.dataclass(frozen=True)
class Options:
    """One row for each size, target and mesh."""

    sizes: tuple[str, ...] = ("gpt2_small",)
    """Any of gpt2_small, gpt2_medium, gpt2_large, gpt2_xl, gpt3_175b."""
    targets: tuple[str, ...] = ("v5e:2x4",)
    """TPU topologies, such as v5e:4x4."""
    meshes: tuple[str, ...] = ("fsdp=-1",)
    """Sizes of the mesh axes."""
    rows: float = 1.0
    """Rows of the batch per device; each is as long as the model's context."""
    remat: str = "full"
    """Rematerialisation of blocks: none, dots (keep dense layers) or full."""
    out: Path | None = None
    """A file to which all plans are appended as JSON, one per line."""


def plan_row(options: Options, size: str, target: plan.Target, mesh_spec: str) -> Plan:
    """The plan for one row of the table."""
    model = SIZES[size](remat=POLICIES[options.remat])
    objective = objectives.next_token_in_chunks(model)
    optimizer = optax.adamw(1e-4)
    mesh = sharding.mesh(mesh_spec, target.devices)
    tokens = jax.ShapeDtypeStruct((int(options.rows * mesh.size), model.context), jnp.int32)
    example = {"tokens": tokens, "targets": tokens}
    sharding.local_rows(mesh, tokens.shape[0])
    rule = sharding.tensor(model.tensor_dims)
    state = train.abstract_state(objective, optimizer, example, mesh, rule)
    objective = dataclasses.replace(objective, model=Cast(objective.model))
    step = train.jit_step(train.update(objective, optimizer), state)
    return plan.plan(step, state, example, mesh, target)


def row(size: str, row_plan: Plan) -> str:
    """A row of the table; some cells stay empty where the step does not fit."""
    milliseconds = {
        name: f"{1e3 * seconds:,.1f}" for name, seconds in row_plan.lower_bounds.items()
    }
    examples, tokens = row_plan.per_step["examples"], row_plan.per_step["tokens"]
    received = (
        row_plan.collectives and f"{sum(part.bytes for part in row_plan.collectives) / 2**30:.2f}"
    )
    cells = [
        size,
        row_plan.target,
        ", ".join(f"{axis}={n}" for axis, n in row_plan.mesh.items()),
        f"{examples:,} x {tokens // examples:,}",
        f"{row_plan.memory_total / 2**30:.1f} of {(row_plan.memory_limit or 0) / 2**30:.4g}",
        received or "does not fit",
        milliseconds["matmul"],
        milliseconds["memory"],
        milliseconds.get("network", ""),
        efficiency(row_plan) if row_plan.device_matmul_flops else "",
        f"{row_plan.throughput(0.4)['tokens']:,.0f}" if row_plan.fits else "",
        f"{row_plan.compile_seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def efficiency(row_plan: Plan) -> str:
    """Upper bounds of MFU: if no communication overlaps with compute, and if all of it does."""
    matmul, network = row_plan.lower_bounds["matmul"], row_plan.lower_bounds["network"]
    share = (
        matmul * row_plan.matmul_flops / (row_plan.devices * (row_plan.device_matmul_flops or 1))
    )
    return f"{share / (matmul + network):.0%} to {share / max(row_plan.lower_bounds.values()):.0%}"


HEAD = (
    "size",
    "slice",
    "mesh",
    "batch",
    "GiB per chip",
    "collectives, GiB per chip",
    "matmul, ms",
    "memory, ms",
    "network, ms",
    "MFU at most",
    "tokens/s at 40 % MFU",
    "compile time, s",
)


def main(options: Options) -> None:
    """Print the table."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for size in options.sizes:
        for name in options.targets:
            target = plan.target(name)
            for mesh in options.meshes:
                row_plan = plan_row(options, size, target, mesh)
                print(row(size, row_plan), flush=True)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps({"size": size, **row_plan.to_json()}) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
