"""Plan the training of GPT-2's and GPT-3's sizes on slices that nobody has rented yet.

    uv run --extra tpu scripts/scaling.py --sizes gpt2_small gpt2_xl --targets v5e:2x4 v5e:16x16
    uv run --extra tpu scripts/scaling.py --sizes gpt3_175b --targets v5p:8x8x16 --meshes fsdp=-1

Each row of the table is a step compiled ahead of time: AdamW on bfloat16 compute with float32
params, blocks computed again for the gradient, the cross-entropy in chunks.
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
    """A row for each size, target and mesh."""

    sizes: tuple[str, ...] = ("gpt2_small",)
    """Of gpt2_small, gpt2_medium, gpt2_large, gpt2_xl, gpt3_175b."""
    targets: tuple[str, ...] = ("v5e:2x4",)
    """Topologies that libtpu knows."""
    meshes: tuple[str, ...] = ("fsdp=-1",)
    """Devices by axis."""
    rows: float = 1.0
    """Rows of the batch for each device; each is as long as the model's context."""
    saved: str = "nothing"
    """What is kept for the gradient: everything, dots, nothing."""
    out: Path | None = None
    """Where the whole plans go, as JSON, one a line."""


def planned(options: Options, size: str, target: plan.Target, mesh_spec: str) -> Plan:
    """The plan of one row."""
    model = SIZES[size](remat=POLICIES[options.saved])
    objective = objectives.next_token_in_chunks(model)
    optimizer = optax.adamw(1e-4)
    mesh = sharding.mesh(mesh_spec, target.devices)
    tokens = jax.ShapeDtypeStruct((int(options.rows * mesh.size), model.context), jnp.int32)
    example = {"tokens": tokens, "targets": tokens}
    sharding.local_rows(mesh, tokens.shape[0])
    rule = sharding.tensor(model.tensor_dims)
    state = train.abstract(objective, optimizer, example, mesh, rule)
    objective = dataclasses.replace(objective, model=Cast(objective.model))
    step = train.placed_step(train.update(objective, optimizer), state)
    return plan.plan(step, state, example, mesh, target)


def row(size: str, made: Plan) -> str:
    """A row of the table; what is known only of a compiled step is missing where none was made."""
    bounds = {name: f"{1e3 * seconds:,.1f}" for name, seconds in made.bounds.items()}
    examples, tokens = made.per_step["examples"], made.per_step["tokens"]
    traffic = made.traffic and f"{sum(part.bytes for part in made.traffic) / 2**30:.2f}"
    cells = [
        size,
        made.target,
        ", ".join(f"{axis}={n}" for axis, n in made.mesh.items()),
        f"{examples:,} x {tokens // examples:,}",
        f"{made.total / 2**30:.1f} of {(made.limit or 0) / 2**30:.4g}",
        traffic or "does not fit",
        bounds["products"],
        bounds["memory"],
        bounds.get("network", ""),
        efficiency(made) if made.products else "",
        f"{made.rates(0.4)['tokens']:,.0f}" if made.fits else "",
        f"{made.compilation:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def efficiency(made: Plan) -> str:
    """An equal share of the products, of what a step takes if no transfer is hidden, or if all are.

    Both at the chip's peak.
    """
    products, network = made.bounds["products"], made.bounds["network"]
    share = products * made.matmul / (made.devices * (made.products or 1))
    return f"{share / (products + network):.0%} to {share / max(made.bounds.values()):.0%}"


HEAD = (
    "size",
    "slice",
    "mesh",
    "batch",
    "GiB a chip",
    "collectives, GiB a chip",
    "products, ms",
    "memory, ms",
    "network, ms",
    "efficiency at most",
    "tokens/s at 40 %",
    "compiled in, s",
)


def main(options: Options) -> None:
    """Print the table."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for size in options.sizes:
        for name in options.targets:
            target = plan.target(name)
            for mesh in options.meshes:
                made = planned(options, size, target, mesh)
                print(row(size, made), flush=True)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps({"size": size, **made.to_json()}) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
