"""`Metric`: unit and direction of a metric. `Published`: published results to compare with."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-9
"""Relative tolerance: in binary 1 - 0.9905 is not exactly 0.0095."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """Unit of a metric, and which direction is better.

    Attributes:
        unit: written after the value; "%" means a fraction in 0..1 that is shown in percent.
        higher_is_better: None if neither direction is better.
        of_examples: whether it is a fraction of the examples, such as accuracy, which has the
            standard error sqrt(p (1 - p) / n).
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
        """Measured minus published, with the sign that positive is better; None if no direction."""
        if self.higher_is_better is None:
            return None
        return measured - published if self.higher_is_better else published - measured

    def reached(self, measured: float, published: float) -> bool | None:
        """Whether the measured value is at least as good as published; None if no direction."""
        gain = self.gain(measured, published)
        return None if gain is None else gain >= -ROUNDING * max(1.0, abs(published))

    def standard_error(self, value: float, examples: int) -> float | None:
        """The standard error sqrt(p (1 - p) / n) if `of_examples`, else None."""
        if not self.of_examples or not 0 <= value <= 1 or examples < 1:
            return None
        return math.sqrt(value * (1 - value) / examples)


@dataclasses.dataclass(frozen=True)
class Published:
    """Values of metrics to reach, with data set and hyperparameters.

    Attributes:
        metrics: values by full name, such as `{"test/error": 0.0095}`.
        dataset: the name of the data set, as in `--dataset`.
        source: the publication, such as "LeCun et al. 1998, table 1".
        setting: hyperparameters of the publication that differ from the experiment's defaults.
        label: what results call the values: "target" for values that are not from a publication.
    """

    metrics: Mapping[str, float]
    dataset: str
    source: str = ""
    setting: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str = "published"
