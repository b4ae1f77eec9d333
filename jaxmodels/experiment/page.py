"""The page of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmodels import report, tree
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.folder import CONFIG
from jaxmodels.train import State

PAGE = "report.html"


def write_page(
    folder: Path,
    experiment: Experiment,
    state: State,
    variables: Any,
    figures: Mapping[str, Any],
    first_step: float | None,
    costs: report.Costs,
) -> Path:
    """Write `report.html`; `variables` are whole, `state` tells how they were placed."""
    config = json.loads((folder / CONFIG).read_text())
    metrics = report.read_metrics(folder)
    per_step = experiment.train.batch_size
    throughput = (
        [report.throughput(*metrics["time"], per_step, first_step=first_step)]
        if "time" in metrics
        else []
    )
    sections = [
        report.comparison(experiment.published, figures),
        report.curves(metrics),
        *experiment.pictures(variables, figures),
        *throughput,
        report.cost(costs),
        report.parameters(_rows(state.params)),
        report.settings(config),
    ]
    title, _, subtitle = config.pop("claim").partition("\n")
    return report.write_page(folder / PAGE, title.rstrip("."), subtitle.strip(), sections)


def _rows(params: Any) -> list[tuple[str, tuple[int, ...], Any, int, str]]:
    return [
        (path, leaf.shape, leaf.dtype, leaf.size, _placement(leaf))
        for path, leaf in tree.named_leaves(params)
    ]


def _placement(leaf: Any) -> str:
    parts = [axis for axis in leaf.sharding.spec if axis is not None]
    return f"split over {', '.join(map(str, parts))}" if parts else "whole on every device"
