"""`--plan`: what an experiment would take on devices that are not here."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxmodels import plan, report
from jaxmodels.data import declared
from jaxmodels.experiment.bucket import at, mirrored
from jaxmodels.experiment.claim import Experiment
from jaxmodels.experiment.folder import write_json
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.prepared import check, configured, plain_step
from jaxmodels.plan import Plan, Target
from jaxmodels.train import abstract, placed_step

PAGE = "plan.html"

Change = tuple[Mapping[str, str], Experiment, Options]
"""What is told of it, and the experiment and options that it makes."""


def print_plan(
    make: Callable[..., Experiment], hyperparameters: Mapping[str, Any], options: Options
) -> None:
    """Plan the experiment, print what was found, and write it as JSON and as a page."""
    assert options.plan is not None
    name = options.plan.replace(":", "-")
    folder = at(options.out or f"runs/{make.__name__}/plan-{name}")
    target = plan.target(options.plan)
    with declared.instead_of_data():
        experiment = make(**hyperparameters)
    made = plan_for(experiment, options, target)
    print(report.plan_lines(made.to_json()))
    changes = tried(experiment, options, target) if made.fits is False else iter(())
    instead = []
    for told, other in changes:
        instead.append({"change": told, **other.to_json()})
        print(f"\nwith {written(told)}:\n{report.plan_lines(other.to_json())}")
        if other.fits:
            break
    with mirrored(folder) as mirror:
        mirror.files.mkdir(parents=True, exist_ok=True)
        write_json(mirror.files / "plan.json", {**made.to_json(), "instead": instead})
        report.write_page(
            mirror.files / PAGE,
            f"{make.__name__} on {options.plan}",
            "A plan: compiled ahead of time, run nowhere.",
            report.plan(made.to_json(), instead),
        )
    print(f"\npage  {folder / PAGE}")


def plan_for(experiment: Experiment, options: Options, target: Target) -> Plan:
    """The plan of an experiment with these options."""
    mesh = check(experiment, options, target.devices)
    experiment = configured(experiment, options)
    example = experiment.train.example
    parts = experiment.prepared_objective, experiment.optimizer, example
    state = abstract(*parts, mesh, experiment.placement)
    step = placed_step(plain_step(experiment, options), state)
    return plan.plan(step, state, example, mesh, target)


def tried(
    experiment: Experiment, options: Options, target: Target
) -> Iterator[tuple[Mapping[str, str], Plan]]:
    """Plans of what may fit where the experiment does not, one after the other."""
    for told, other, changed in _changes(experiment, options, len(target.devices)):
        yield told, plan_for(other, changed, target)


def written(change: Mapping[str, str]) -> str:
    """The change as one would give it on the command line."""
    return " ".join(f"--{name} {value}" for name, value in change.items())


def _changes(experiment: Experiment, options: Options, devices: int) -> Iterator[Change]:
    """More devices for the state, less kept for the gradient, a smaller batch; each on the last."""
    told: dict[str, str] = {}
    if options.mesh != "fsdp=-1":
        told["mesh"] = "fsdp=-1"
        options = dataclasses.replace(options, mesh="fsdp=-1")
        yield dict(told), experiment, options
    for saved in ("dots", "nothing"):
        if options.saved != "nothing" and options.saved != saved:
            told["saved"] = saved
            options = dataclasses.replace(options, saved=saved)
            yield dict(told), experiment, options
    size = experiment.train.batch_size
    while size % (2 * devices * options.accumulate) == 0:
        size //= 2
        told["batch-size"] = str(size)
        smaller = dataclasses.replace(experiment.train, batch_size=size)
        yield dict(told), dataclasses.replace(experiment, train=smaller), options
