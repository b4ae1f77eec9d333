"""Line charts as inline SVG that takes its colours from the page, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Drawn in these colours, which then become the page's: matplotlib knows no CSS variables.
INK, GRID = "#101010", "#202020"
SERIES = ("#300001", "#300002", "#300003", "#300004", "#300005", "#300006")
VARIABLES = {INK: "var(--muted)", GRID: "var(--rule)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)
}
SIZE = (460, 250)  # CSS pixels at the page's full width


@dataclass(frozen=True)
class Line:
    """One curve: `behind` is drawn pale below it, as the raw values of a smoothed curve."""

    label: str
    x: np.ndarray
    y: np.ndarray
    behind: tuple[np.ndarray, np.ndarray] | None = None


def chart(
    lines: Sequence[Line],
    x_label: str,
    log: bool = False,
    form: Callable[[float], str] = "{:g}".format,
) -> str:
    """Draw the lines in one panel, each labelled at its end with its last value."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "",
        "font.size": 12,
        "path.simplify": True,
        "text.parse_math": False,  # a $ in a name is a $
    }
    with rc_context(style):
        figure = Figure(figsize=(SIZE[0] / 72, SIZE[1] / 72))
        axes = figure.add_axes((0.115, 0.19, 0.67, 0.76))
        lines = [line for line in lines if np.isfinite(line.y).any()]
        _scale(axes, lines, log)
        for line, color in zip(lines, SERIES * len(lines), strict=False):
            _draw(axes, line, color)
        _style_axes(axes, x_label)
        _labels(axes, lines, form)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue())


def _draw(axes: Any, line: Line, color: str) -> None:
    if line.behind is not None:
        axes.plot(*line.behind, color=color, alpha=0.25, linewidth=0.8)
    marker = "o" if len(line.x) <= 30 else None
    # On a logarithmic scale a zero lies on the axis, instead of breaking the curve.
    y = np.maximum(line.y, axes.get_ylim()[0])
    axes.plot(line.x, y, color=color, linewidth=1.8, marker=marker, markersize=4)


def _scale(axes: Any, lines: Sequence[Line], log: bool) -> None:
    """The range of the curves themselves, without the noise behind them."""
    values = _finite(np.concatenate([np.empty(0), *(line.y for line in lines)]))
    if log and (values > 0).any():
        values = values[values > 0]
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(values.min() / 1.4, values.max() * 1.4)
    elif values.size:
        low, high = min(values.min(), 0.0), values.max()
        axes.set_ylim(low, high + 0.08 * ((high - low) or 1.0))


def _style_axes(axes: Any, x_label: str) -> None:
    """Axes with few ticks, horizontal rules, no frame."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK, length=0, pad=5)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))


def _labels(axes: Any, lines: Sequence[Line], form: Callable[[float], str]) -> None:
    """Name and last value to the right of each curve's end, moved apart where they'd overlap."""
    for n, height in _spread_labels([_height(axes, line.y) for line in lines]):
        style = {"color": SERIES[n % len(SERIES)], "transform": axes.transAxes, "va": "center"}
        value = form(float(_finite(lines[n].y)[-1]))
        if lines[n].label:
            axes.text(1.03, height + 0.04, lines[n].label, weight="bold", **style)
            height -= 0.04
        axes.text(1.03, height, value, **style)


def _spread_labels(heights: list[float], apart: float = 0.18) -> list[tuple[int, float]]:
    """Where the labels go: at their heights, or as little lower as keeps them apart."""
    places, top = [], np.inf
    for height, n in sorted(((h, n) for n, h in enumerate(heights)), reverse=True):
        top = min(height, top - apart)
        places.append((n, top))
    lift = max(0.04 - top, 0.0)
    return [(n, height + lift) for n, height in places]


def _height(axes: Any, y: np.ndarray) -> float:
    """Where the curve ends, as a fraction of the panel's height."""
    value = np.clip(_finite(y)[-1], *axes.get_ylim())
    point = axes.transData.transform((0, value))
    return float(axes.transAxes.inverted().transform(point)[1])


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _inline(svg: str) -> str:
    """The picture without what a page doesn't need, in the page's colours and type."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r' id="\w+_\d+"', "", svg)
    svg = re.sub(r"font-family:[^;\"]*;?|font:[^;\"]*'[^;\"]*;?", "", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
