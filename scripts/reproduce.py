"""Run an experiment over seeds and print its row of the table in experiments/README.md.

    uv run scripts/reproduce.py lenet_mnist --seeds 0 1 2
    uv run scripts/reproduce.py resnet_cifar10 --seeds 0 --dataset cifar10_subset

Runs that are finished are only read; runs that were stopped go on.
"""

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import tyro
from tyro.conf import Positional

from jaxmodels import experiment, report
from jaxmodels.metric import Metric
from jaxmodels.report.progress import duration


@dataclasses.dataclass(frozen=True)
class Options:
    """Any other options are passed on to the experiment."""

    name: Positional[str]
    """Of a script in experiments/."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    out: Path = Path("runs/reproduce")
    """The runs' folders are in here, by name and seed."""


def reproduce(options: Options, arguments: list[str]) -> None:
    """Run an experiment over seeds, and print its row of the table."""
    script = Path(__file__).parent.parent / "experiments" / f"{options.name}.py"
    folders = [options.out / options.name / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        given = [*arguments, "--seed", str(seed), "--out", str(folder)]
        if (folder / "results.json").exists():
            check_same_command(folder, given)
        else:
            subprocess.run([sys.executable, script, *given], check=True)
    print(row(options.name, arguments, folders))


def check_same_command(folder: Path, given: list[str]) -> None:
    """Exit with a message unless the finished run in `folder` was started with these arguments."""
    config = json.loads((folder / "config.json").read_text())
    if shlex.split(config["command"])[1:] != given:
        raise SystemExit(
            f"{folder} holds a run of another command,\n  {config['command']}\n"
            "Give the same arguments, or another --out."
        )


def row(name: str, arguments: list[str], folders: list[Path]) -> str:
    """The table's row: command, published, measured, steps, time of a run, machine."""
    config = json.loads((folders[0] / "config.json").read_text())
    results = [experiment.results(folder) for folder in folders]
    types = {name: Metric(**fields) for name, fields in config["metrics"].items()}
    targets = config["published"].get("metrics", {})
    measured, published = [], []
    for name, value in targets.items():
        kind, short = types.get(name, Metric()), name.partition("/")[2]
        measured.append(f"{short} {spread(kind, [r[name] for r in results])}")
        published.append(f"{short} {kind.format(value)}")
    times = [report.read_metrics(folder)["time"][1] for folder in folders]
    cells = [
        f"`{shlex.join(['uv', 'run', f'experiments/{name}.py', *arguments])}`",
        "<br>".join(published),
        "<br>".join(measured),
        f"{config['steps']:,}",
        duration(mean(float(time.max() - time.min()) for time in times)),
        f"{os.cpu_count()} cores, {platform.machine()}",
    ]
    return f"| {' | '.join(cells)} |"


def spread(kind: Metric, values: list[float]) -> str:
    """Mean and standard deviation over seeds, or the single value."""
    if len(values) == 1:
        return f"{kind.format(values[0])} (1 seed)"
    deviation = kind.format(stdev(values))
    return f"{kind.format(mean(values))} ± {deviation} ({len(values)} seeds)"


if __name__ == "__main__":
    reproduce(*tyro.cli(Options, return_unknown_args=True))
