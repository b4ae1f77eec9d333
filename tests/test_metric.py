"""Units, directions and standard errors of metrics."""

import math

import pytest

from jaxmodels.metric import Metric, Published

ERROR = Metric("%", higher_is_better=False, of_examples=True)
ACCURACY = Metric("%", higher_is_better=True, of_examples=True)


@pytest.mark.parametrize(
    ("metric", "measured", "published", "expected"),
    [
        (ERROR, 0.0094, 0.0095, True),
        (ERROR, 1 - 0.9905, 0.0095, True),  # equal, but for rounding
        (ERROR, 0.0096, 0.0095, False),
        (ERROR, math.nan, 0.0095, False),
        (ACCURACY, 0.99, 0.985, True),
        (ACCURACY, 0.98, 0.985, False),
        (Metric("dB", higher_is_better=True), 31.0, 30.0, True),
        (Metric("bits", higher_is_better=False), 1.0, 1.1, True),
        (Metric(), 1.0, 1.1, None),
    ],
)
def test_reached_follows_the_direction(metric, measured, published, expected):
    assert metric.reached(measured, published) is expected


def test_gain_is_positive_for_the_better_direction():
    assert Metric(higher_is_better=True).gain(30.5, 29.5) == 1.0
    assert Metric(higher_is_better=False).gain(30.5, 29.5) == -1.0
    assert Metric().gain(30.5, 29.5) is None


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        (ERROR, 0.0095, "0.95 %"),
        (Metric("nats"), 0.03125, "0.03125 nats"),
        (Metric("bits"), 1.47123, "1.471 bits"),
        (Metric(), 82.131, "82.13"),
        (Metric("nats"), math.inf, "inf"),
    ],
)
def test_values_are_written_with_their_unit(metric, value, expected):
    assert metric.format(value) == expected


def test_only_a_share_of_examples_has_a_standard_error():
    assert ERROR.standard_error(0.1, 100) == pytest.approx(0.03)
    assert Metric("%", higher_is_better=False).standard_error(0.1, 100) is None
    assert ERROR.standard_error(0.1, 0) is None


def test_published_values_belong_to_a_dataset():
    published = Published({"test/error": 0.0095}, "mnist")
    assert (published.dataset, published.source) == ("mnist", "")
