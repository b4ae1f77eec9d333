"""`--plan`: what an experiment would take on devices that are not here."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmodels import plan, report
from jaxmodels.data import placeholders
from jaxmodels.errors import UserError
from jaxmodels.experiment.bucket import as_folder, mirrored
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import write_json
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.setup import set_up
from jaxmodels.plan import Plan, Target
from jaxmodels.typing import BATCH_AXES

PAGE = "plan.html"

REMAT = "none", "dots", "full"
"""Of `--remat`, from the most memory to the least."""


def print_plan(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], options: Options
) -> None:
    """Plan the experiment, print what was found, and write it as JSON and as a page."""
    assert options.plan is not None
    name = options.plan.replace(":", "-")
    folder = as_folder(options.out or f"runs/{make.__name__}/plan-{name}")
    target = plan.target(options.plan)
    with placeholders.with_placeholders():
        experiment = make(**hyperparameters)
    made = plan_for(experiment, options, target)
    print(report.plan_lines(made.to_json()))
    title, alternatives = f"{make.__name__} on {options.plan}", []
    with mirrored(folder) as mirror:
        _write(mirror.files, title, made, alternatives)
        for change, other in tried(experiment, options, target, made):
            told = {"error": str(other)} if isinstance(other, UserError) else other.to_json()
            alternatives.append({"change": change, **told})
            found = told.get("error") or report.plan_lines(told)
            print(f"\nwith {report.change_as_options(change)}:\n{found}")
            _write(mirror.files, title, made, alternatives)
    print(f"\npage  {folder / PAGE}")


def _write(folder: Path, title: str, made: Plan, alternatives: list[dict[str, Any]]) -> None:
    """The plan as JSON and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", {**made.to_json(), "alternatives": alternatives})
    told = "A plan: compiled ahead of time, run nowhere."
    report.write_page(folder / PAGE, title, told, report.plan(made.to_json(), alternatives))


def plan_for(experiment: Experiment, options: Options, target: Target) -> Plan:
    """The plan of an experiment with these options."""
    one = dataclasses.replace(options, steps_per_call=1)
    setup = set_up(experiment, one, target.devices)
    example = setup.experiment.train.example
    return plan.plan(setup.step, setup.abstract_state, example, setup.mesh, target)


def tried(
    experiment: Experiment, options: Options, target: Target, made: Plan
) -> Iterator[tuple[Mapping[str, str], Plan | UserError]]:
    """Where `made` does not fit, what may, until it does: changes, and the plan or what forbids it.

    Each is on top of those before it that could be made.
    """
    if made.fits is not False:
        return
    kept: dict[str, str] = {}
    for name, value in _changes(experiment, options, made.mesh):
        change = {**kept, name: value}
        try:
            outcome = plan_for(*_changed(experiment, options, change), target)
        except UserError as error:
            yield change, error
            continue
        yield change, outcome
        if outcome.fits:
            return
        kept = change


def _changes(
    experiment: Experiment, options: Options, mesh: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """More devices for the state, less kept for the gradient, a smaller batch."""
    if mesh.get("data", 1) > 1:
        others = (f"{axis}={size}" for axis, size in mesh.items() if axis not in BATCH_AXES)
        yield "mesh", ",".join(("fsdp=-1", *others))
    for remat in REMAT[REMAT.index(options.remat) + 1 :]:
        yield "remat", remat
    size, shards = experiment.train.batch_size, math.prod(mesh.get(a, 1) for a in BATCH_AXES)
    while size % (2 * shards * options.accumulate) == 0:
        size //= 2
        yield "batch-size", str(size)


def _changed(
    experiment: Experiment, options: Options, change: Mapping[str, str]
) -> tuple[Experiment, Options]:
    size = int(change.get("batch-size", experiment.train.batch_size))
    train: Any = dataclasses.replace(experiment.train, batch_size=size)  # pyright: ignore[reportArgumentType]
    fields = {name: value for name, value in change.items() if name != "batch-size"}
    return dataclasses.replace(experiment, train=train), dataclasses.replace(options, **fields)
