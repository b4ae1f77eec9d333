"""What papers report, exact: sums over every example of a split, with padding masked out.

An `Evaluation` says how to judge a model on a split. Its `statistics` are sums over one batch (a
pure function on the device), which whoever drives it adds up on the host in float64 and int64,
and its `summary` turns the totals into figures. Nothing is averaged over batches, so the figures
depend neither on the batch size nor on how many devices or hosts computed them.
"""

from jaxmodels.metrics.classification import (
    classification,
    classification_figures,
    classification_sums,
)
from jaxmodels.metrics.evaluation import Evaluation
from jaxmodels.metrics.regression import regression, regression_figures, regression_sums

__all__ = [
    "Evaluation",
    "classification",
    "classification_figures",
    "classification_sums",
    "regression",
    "regression_figures",
    "regression_sums",
]
