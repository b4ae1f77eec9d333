"""Measured metrics beside published ones: verdicts, and the summary on the terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmodels.metric import Metric, Published


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a run measured, and what its verdict depends on.

    Attributes:
        metrics: values by full name, such as `test/error`.
        types: unit and direction by full name; a plain number without verdict where absent.
        published: values to reach, and the data set that they belong to.
        datasets: the data set that each evaluation has read, by the evaluation's name.
        changed: hyperparameters that are not the published ones: those, and this run's.
        examples: how many examples each evaluation has read.
    """

    metrics: Mapping[str, Any]
    types: Mapping[str, Metric] = field(default_factory=dict)
    published: Published | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The metrics that are single numbers, without confusion matrices and the like."""
        return single_values(self.metrics)

    @property
    def targets(self) -> Mapping[str, float]:
        """Published values by name; empty without any."""
        return {} if self.published is None else self.published.metrics

    @property
    def label(self) -> str:
        """What the values to reach are called: "published" or "target"."""
        return Published.label if self.published is None else self.published.label

    def format(self, name: str, value: float) -> str:
        """The value with the unit of that metric."""
        return self.types.get(name, Metric()).format(value)

    def other_dataset(self, name: str) -> str | None:
        """The data set of that metric where it is not the published one."""
        if self.published is None:
            return None
        dataset = self.datasets.get(name.partition("/")[0], self.published.dataset)
        return None if dataset == self.published.dataset else dataset

    def reached(self, name: str) -> bool | None:
        """Whether a published value was reached; None where that cannot be said.

        That is: another data set, nothing published or measured, or no direction.
        """
        if name not in self.targets or name not in self.values or self.other_dataset(name):
            return None
        return self.types.get(name, Metric()).reached(self.values[name], self.targets[name])

    def verdict(self, name: str) -> str:
        """One or two words: reached, not reached, or on which other data set it was measured."""
        if name in self.targets and (dataset := self.other_dataset(name)):
            return f"on {dataset}"
        return {True: "reached", False: "not reached", None: ""}[self.reached(name)]

    def standard_error(self, name: str) -> float | None:
        """Of a share of the evaluation's examples; None for other metrics."""
        count = self.examples.get(name.partition("/")[0])
        kind = self.types.get(name)
        if count is None or kind is None:
            return None
        return kind.standard_error(self.values[name], count)

    @property
    def notes(self) -> list[str]:
        """Sentences on what the published values do not hold for."""
        if self.published is None:
            return []
        others = {d for name in self.targets if (d := self.other_dataset(name))}
        notes = [
            f"The {self.label} values are for {self.published.dataset}; this run read {dataset}: "
            "no verdict."
            for dataset in sorted(others)
        ]
        if self.changed:
            changed = (
                f"{k}={_plain(v[1])} instead of {_plain(v[0])}" for k, v in self.changed.items()
            )
            notes.append(f"This run's settings differ: {', '.join(changed)}.")
        return notes


def single_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number each, without confusion matrices and the like."""
    return {name: float(value) for name, value in metrics.items() if not getattr(value, "ndim", 0)}


def summary(
    results: Results,
    folder: str | Path,
    page: str | Path | None = None,
    resume: str | None = None,
) -> str:
    """What is printed when a run has ended; `resume` is the command that resumes it."""
    label = results.label if results.targets else ""
    rows = [("", "measured", label, ""), *(_row(results, n) for n in results.values)]
    missing = [n for n in results.targets if n not in results.values]
    rows += [(n, "-", results.format(n, results.targets[n]), "") for n in missing]
    places = {"folder": folder, "page": page, "resume": resume}
    notes = [*results.notes, ""] if results.notes else []
    return "\n".join([*_align(rows), "", *notes, *_places(places)])


def _row(results: Results, name: str) -> tuple[str, str, str, str]:
    value = results.format(name, results.values[name])
    if name not in results.targets:
        return name, value, "", ""
    return name, value, results.format(name, results.targets[name]), results.verdict(name)


def _plain(value: Any) -> str:
    """As on the command line: a tuple's numbers one after the other."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _places(places: Mapping[str, Any]) -> list[str]:
    return [f"{name:<10}{place}" for name, place in places.items() if place is not None]


def _align(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
