"""Learning curves: the same quantity of train and test in one panel."""

import html
from collections.abc import Mapping

import numpy as np

from jaxmodels.metric import Metric
from jaxmodels.report.charts import Line, chart
from jaxmodels.report.page import Section

Series = tuple[np.ndarray, np.ndarray]
# Quantities that share a panel although train and test name them differently; the first found.
SHARED = {
    "loss": ("cross_entropy", "nll", "mse", "loss"),
    "error": ("error",),
}


def curves(metrics: Mapping[str, Series], types: Mapping[str, Metric] | None = None) -> Section:
    """Learning curves from `read_metrics`, one panel per quantity; names are `split/quantity`.

    `types` has the units by full name; training curves take the unit of the evaluation's metric.

    A name without a split belongs to `train`. Accuracy is drawn as error, which has room for
    differences near the end. Long noisy curves are means over a moving window of a thirtieth of
    their length, with the raw values behind.
    """
    panels = _panels(_by_split(metrics))
    units = _units(types or {})
    panels_html = [_panel(name, series, units) for name, series in panels.items()]
    return Section("Learning curves", f'<div class="panels">{"".join(panels_html)}</div>')


def _by_split(metrics: Mapping[str, Series]) -> dict[str, dict[str, Series]]:
    """`{"train": {"loss": ...}, "test": {"error": ...}}`, with accuracy turned into error."""
    splits: dict[str, dict[str, Series]] = {}
    for name, (steps, values) in metrics.items():
        if name == "time":
            continue
        split, _, quantity = name.rpartition("/")
        series = splits.setdefault(split or "train", {})
        if quantity == "accuracy":
            series.setdefault("error", (steps, 1 - values))
        else:
            series[quantity] = (steps, values)
    return splits


def _panels(splits: dict[str, dict[str, Series]]) -> dict[str, dict[str, Series]]:
    """`{panel: {split: series}}`; the shared panels come first."""
    panels: dict[str, dict[str, Series]] = {}
    names: dict[str, set[str]] = {}
    for panel, quantities in SHARED.items():
        for split, series in splits.items():
            found = next((q for q in quantities if q in series), None)
            if found is not None:
                panels.setdefault(panel, {})[split] = series.pop(found)
                names.setdefault(panel, set()).add(found)
    if "cross_entropy" in names.get("loss", ()):
        panels = {("cross-entropy" if k == "loss" else k): v for k, v in panels.items()}
    for split, series in splits.items():
        for quantity, values in series.items():
            panels.setdefault(quantity, {})[split] = values
    return panels


def _units(types: Mapping[str, Metric]) -> dict[str, str]:
    """Units by quantity: `error` of `test/error`."""
    return {name.rpartition("/")[2]: kind.unit for name, kind in types.items()}


def _panel(name: str, series: dict[str, Series], units: Mapping[str, str]) -> str:
    unit = units.get(name.replace("-", "_"), units.get("accuracy", "") if name == "error" else "")
    share = unit == "%"
    ordered = sorted(series.items(), key=lambda item: item[0] != "train")
    lines = [
        _line(split, steps, values * (100 if share else 1)) for split, (steps, values) in ordered
    ]
    svg = chart(
        lines,
        "step",
        log=name != "learning_rate" and _spans_decades(lines),
        form=lambda v: f"{v:.2f} %" if share else f"{v:.3g}",
    )
    shown = f", {unit}" if unit and unit not in name else ""  # bits_per_byte says it already
    caption = f"{html.escape(name.replace('_', ' '))}<span>{html.escape(shown)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def _line(label: str, steps: np.ndarray, values: np.ndarray) -> Line:
    if len(steps) < 60 or not _noisy(values):
        return Line(label, steps, values)
    smooth = _moving_mean(values, len(values) // 30)
    return Line(label, *_thin(steps, smooth), behind=_thin(steps, values))


def _noisy(values: np.ndarray) -> bool:
    """Whether the curve turns or rests at more than a fifth of its points."""
    change = np.diff(values)
    return bool(np.mean(change[1:] * change[:-1] <= 0) > 0.2)


def _moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean over finite values; windows are shorter at the ends."""
    finite = np.isfinite(values)
    box = np.ones(2 * (window // 2) + 1)
    total = np.convolve(np.where(finite, values, 0.0), box, mode="same")
    count = np.convolve(finite.astype(float), box, mode="same")
    return np.divide(total, count, out=np.full(values.shape, np.nan), where=count > 0)


def _thin(steps: np.ndarray, values: np.ndarray, limit: int = 400) -> Series:
    """At most twice `limit` points: the least and the greatest of each stretch."""
    if len(steps) <= 2 * limit:
        return steps, values
    stretches = np.array_split(np.arange(len(steps)), limit)
    filled = np.where(np.isfinite(values), values, np.inf)
    least = {s[np.argmin(filled[s])] for s in stretches}
    filled = np.where(np.isfinite(values), values, -np.inf)
    keep = sorted(least | {s[np.argmax(filled[s])] for s in stretches} | {len(steps) - 1})
    return steps[keep], values[keep]


def _spans_decades(lines: list[Line]) -> bool:
    """Whether the values span more than a decade, which asks for a logarithmic scale."""
    values = np.concatenate([line.y for line in lines])
    positive = values[np.isfinite(values) & (values > 0)]
    negative = (values < 0).any()
    return bool(positive.size and not negative and positive.max() > 10 * positive.min())
