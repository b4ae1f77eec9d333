"""`report.html` of a run, and the summary printed at its end."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxmodels import report, tree
from jaxmodels.experiment.bucket import Folder
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import CONFIG
from jaxmodels.experiment.folder import resume_command
from jaxmodels.train import State

PAGE = "report.html"


def write_page(
    folder: Path,
    experiment: Experiment,
    state: State,
    metrics: Mapping[str, Any],
    own_sections: Sequence[report.Section],
    first_step: float | None,
    costs: report.Costs,
) -> Path:
    """Write `report.html`; `own_sections` are those of `Experiment.report`."""
    config = json.loads((folder / CONFIG).read_text())
    results = _results(experiment, metrics, config)
    config.pop("metrics", None)  # units, which the page already writes beside each value
    title, _, subtitle = (config.pop("description", None) or config["experiment"]).partition("\n")
    sections = report.sections(
        [
            ("Result", lambda: [report.comparison(results)]),
            ("Learning curves", lambda: [_curves(folder, experiment)]),
            ("Report", lambda: own_sections),
            ("Throughput", lambda: _throughput(folder, experiment.train.batch_size, first_step)),
            ("Cost", lambda: [report.cost(costs)]),
            ("Parameters", lambda: [report.parameters(_parameter_rows(state.params))]),
            ("Settings", lambda: [report.settings(config)]),
        ]
    )
    return report.write_page(folder / PAGE, title.rstrip("."), subtitle.strip(), sections)


def print_summary(
    experiment: Experiment, metrics: Mapping[str, Any], files: Path, folder: Folder
) -> None:
    """Print the metrics beside the published ones, and the paths of folder and page."""
    results = _results(experiment, metrics, json.loads((files / CONFIG).read_text()))
    print(report.summary(results, str(folder), str(folder / PAGE), resume_command(folder)))


def _curves(folder: Path, experiment: Experiment) -> report.Section:
    return report.curves(report.read_metrics(folder), experiment.metric_types)


def _throughput(folder: Path, per_step: int, first_step: float | None) -> list[report.Section]:
    series = report.read_metrics(folder)
    if "time" not in series:
        return []
    return [report.throughput(*series["time"], per_step, first_step=first_step)]


def _results(
    experiment: Experiment, metrics: Mapping[str, Any], config: Mapping[str, Any]
) -> report.Results:
    """The metrics with what is needed to compare them with the published ones."""
    return report.Results(
        metrics=metrics,
        types=experiment.metric_types,
        published=experiment.published,
        datasets=experiment.datasets,
        changed=config.get("changed", {}),
        examples={name: len(part.split) for name, part in experiment.evaluate.items()},
    )


def _parameter_rows(params: Any) -> list[tuple[str, tuple[int, ...], Any, int, str]]:
    return [
        (path, leaf.shape, leaf.dtype, leaf.size, _placement(leaf))
        for path, leaf in tree.named_leaves(params)
    ]


def _placement(leaf: Any) -> str:
    parts = [axis for axis in leaf.sharding.spec if axis is not None]
    return f"split over {', '.join(map(str, parts))}" if parts else "whole on every device"
