"""Measured against published: which way is better, what counts as reached, how it is written."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIGHER = re.compile(r"accuracy|top\d+|r2|f1|auc|(sacre)?bleu|log_likelihood|elbo")
LOWER = re.compile(
    r"error|cross_entropy|loss|mse|rmse|mae|ece|nll|perplexity|bits_per_\w+|wer|fid|kl"
)
SHARES = re.compile(r"accuracy|error|top\d+|ece")
NATS = re.compile(r"cross_entropy|nll|kl|elbo|log_likelihood|reconstruction")
BITS = re.compile(r"bits_per_\w+")


def better_by(name: str, measured: float, published: float) -> float | None:
    """By how much the measured value is better (below 0: worse); None if we can't know.

    Which way is better follows from the last part of the name: `test/error` is better when lower.
    """
    metric = last(name)
    if HIGHER.fullmatch(metric):
        return measured - published
    return published - measured if LOWER.fullmatch(metric) else None


def reached(name: str, measured: float, published: float) -> bool | None:
    """Whether the measured value is at least as good; None if we can't know which way is better."""
    gain = better_by(name, measured, published)
    # 1 - 0.9905 is not 0.0095 in binary: a difference of rounding must not decide.
    return None if gain is None else gain >= -1e-9 * max(1.0, abs(published))


def verdict(name: str, measured: float, published: float) -> str:
    """One or two words on the result."""
    words = {True: "reached", False: "not reached", None: ""}
    return words[reached(name, measured, published)]


def last(name: str) -> str:
    """The metric's own name: `error` of `test/error`."""
    return name.rpartition("/")[2]


def written(name: str, value: float) -> str:
    """The value with its unit: shares in percent, log-likelihoods in nats or in bits a symbol."""
    if not math.isfinite(value):
        return str(value)
    if SHARES.fullmatch(last(name)):
        return f"{100 * value:.2f} %"
    units = {NATS: " nats", BITS: " bits"}
    unit = next((unit for names, unit in units.items() if names.fullmatch(last(name))), "")
    return f"{value:.4g}{unit}"


def standard_error(name: str, value: float, examples: int) -> float | None:
    """Of a share of `examples` independent trials: sqrt(p (1 - p) / n)."""
    if not re.fullmatch(r"accuracy|error|top\d+", last(name)) or not 0 <= value <= 1:
        return None
    return math.sqrt(value * (1 - value) / examples)


def single_values(measured: Mapping[str, Any]) -> dict[str, float]:
    """The measured figures that are one number each, without confusion matrices and the like."""
    return {name: float(value) for name, value in measured.items() if not getattr(value, "ndim", 0)}


def summary(
    measured: Mapping[str, Any],
    published: Mapping[str, float],
    folder: str | Path,
    page: str | Path | None = None,
    resume: str | None = None,
) -> str:
    """What is printed when a run has ended; `resume` is the command that continues it."""
    values = single_values(measured)
    rows = [("", "measured", "published", ""), *(_row(n, v, published) for n, v in values.items())]
    rows += [(n, "-", written(n, v), "") for n, v in published.items() if n not in values]
    places = {"folder": folder, "page": page, "continue": resume}
    return "\n".join([*_aligned(rows), "", *_places(places)])


def _row(name: str, value: float, published: Mapping[str, float]) -> tuple[str, str, str, str]:
    if name not in published:
        return name, written(name, value), "", ""
    target = published[name]
    return name, written(name, value), written(name, target), verdict(name, value, target)


def _places(places: Mapping[str, Any]) -> list[str]:
    return [f"{name:<10}{place}" for name, place in places.items() if place is not None]


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Names to the left, figures to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
