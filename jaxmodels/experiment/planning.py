"""`--plan`: ahead-of-time compilation of an experiment for devices that need not exist here."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmodels import plan, report
from jaxmodels.data import placeholders
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import folder_path, open_mirror
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import write_json
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.setup import set_up
from jaxmodels.plan import Plan, Target
from jaxmodels.typing import BATCH_AXES

PAGE = "plan.html"

REMAT = "none", "dots", "full"
"""Values of `--remat`, from the most memory to the least."""


def print_plan(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], options: Options
) -> None:
    """Plan the experiment; print the plan, and write it as JSON and as a page."""
    assert options.plan is not None
    name = options.plan.replace(":", "-")
    folder = folder_path(options.out or f"runs/{make.__name__}/plan-{name}")
    target = plan.target(options.plan)
    with placeholders.with_placeholders():
        experiment = make(**hyperparameters)
    base = plan_experiment(experiment, options, target)
    print(report.plan_lines(base.to_json()))
    title, alternatives = f"{make.__name__} on {options.plan}", []
    with open_mirror(folder) as mirror:
        _write(mirror.files, title, base, alternatives)
        for change, other in find_alternatives(experiment, options, target, base):
            fields = {"error": str(other)} if isinstance(other, UserError) else other.to_json()
            alternatives.append({"change": change, **fields})
            text = fields.get("error") or report.plan_lines(fields)
            print(f"\nwith {report.change_as_options(change)}:\n{text}")
            _write(mirror.files, title, base, alternatives)
    print(f"\npage  {folder / PAGE}")


def _write(folder: Path, title: str, base: Plan, alternatives: list[dict[str, Any]]) -> None:
    """The plan as JSON and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", {**base.to_json(), "alternatives": alternatives})
    subtitle = "A plan: compiled ahead of time, not run."
    report.write_page(folder / PAGE, title, subtitle, report.plan(base.to_json(), alternatives))


def plan_experiment(experiment: Experiment, options: Options, target: Target) -> Plan:
    """Compile one training step of the experiment for the target."""
    one = dataclasses.replace(options, steps_per_call=1)
    setup = set_up(experiment, one, target.devices)
    example = setup.experiment.train.example
    return plan.plan(setup.step, setup.abstract_state, example, setup.mesh, target)


def find_alternatives(
    experiment: Experiment, options: Options, target: Target, base: Plan
) -> Iterator[tuple[Mapping[str, str], Plan | UserError]]:
    """If `base` does not fit into memory, change options until a plan does.

    Yields the changed options with their plan, or with the error that rules them out. Each change
    is added to the possible ones before it.
    """
    if base.fits is not False:
        return
    kept: dict[str, str] = {}
    for name, value in _candidate_changes(experiment, options, base.mesh):
        change = {**kept, name: value}
        try:
            outcome = plan_experiment(*_apply_change(experiment, options, change), target)
        except UserError as error:
            yield change, error
            continue
        yield change, outcome
        if outcome.fits:
            return
        kept = change


def _candidate_changes(
    experiment: Experiment, options: Options, mesh: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Options that save memory: shard the state (fsdp), more remat, a smaller batch."""
    if mesh.get("data", 1) > 1:
        others = (f"{axis}={size}" for axis, size in mesh.items() if axis not in BATCH_AXES)
        yield "mesh", ",".join(("fsdp=-1", *others))
    for remat in REMAT[REMAT.index(options.remat) + 1 :]:
        yield "remat", remat
    size, shards = experiment.train.batch_size, math.prod(mesh.get(a, 1) for a in BATCH_AXES)
    while size % (2 * shards * options.accumulate) == 0:
        size //= 2
        yield "batch-size", str(size)


def _apply_change(
    experiment: Experiment, options: Options, change: Mapping[str, str]
) -> tuple[Experiment, Options]:
    size = int(change.get("batch-size", experiment.train.batch_size))
    train: Any = dataclasses.replace(experiment.train, batch_size=size)  # pyright: ignore[reportArgumentType]
    fields = {name: value for name, value in change.items() if name != "batch-size"}
    return dataclasses.replace(experiment, train=train), dataclasses.replace(options, **fields)
