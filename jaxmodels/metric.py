"""Units and directions of metrics, and published values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-9
"""Relative: 1 - 0.9905 is not 0.0095 in binary, and such a difference must not decide."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """How to write a metric and which direction is better.

    Attributes:
        unit: written after the value. "%" means a share in 0..1 that is shown in percent.
        higher_is_better: None if neither direction is better; then there is no verdict.
        of_examples: whether it is the share of examples for which something holds, such as
            accuracy. Only such a share has the standard error sqrt(p (1 - p) / n).
    """

    unit: str = ""
    higher_is_better: bool | None = None
    of_examples: bool = False

    def format(self, value: float) -> str:
        """The value with its unit: "0.95 %", "0.03125 nats"."""
        if not math.isfinite(value):
            return str(value)
        if self.unit == "%":
            return f"{100 * value:.2f} %"
        return f"{value:.4g} {self.unit}".rstrip()

    def gain(self, measured: float, published: float) -> float | None:
        """By how much the measured value is better (negative: worse); None without a direction."""
        if self.higher_is_better is None:
            return None
        return measured - published if self.higher_is_better else published - measured

    def reached(self, measured: float, published: float) -> bool | None:
        """Whether the measured value is at least as good; None without a direction."""
        gain = self.gain(measured, published)
        return None if gain is None else gain >= -ROUNDING * max(1.0, abs(published))

    def standard_error(self, value: float, examples: int) -> float | None:
        """Of a share of `examples` independent trials, sqrt(p (1 - p) / n); None for others."""
        if not self.of_examples or not 0 <= value <= 1 or examples < 1:
            return None
        return math.sqrt(value * (1 - value) / examples)


@dataclasses.dataclass(frozen=True)
class Published:
    """Published values, and the dataset that they belong to.

    Attributes:
        metrics: values by full name, such as `{"test/error": 0.0095}`.
        dataset: the name of the dataset, as the experiment's `--dataset` has it.
        source: the publication, such as "LeCun et al. 1998, table 1".
        setting: the publication's hyperparameters, where they are not the experiment's defaults.
    """

    metrics: Mapping[str, float]
    dataset: str
    source: str = ""
    setting: Mapping[str, Any] = dataclasses.field(default_factory=dict)
