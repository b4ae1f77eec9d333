"""What papers report, exact: sums over every example of a split, with padding masked out.

An `Evaluation` says how to judge a model on a split. Its `statistics` are sums over one batch (a
pure function on the device), which whoever drives it adds up on the host in float64 and int64,
and its `summary` turns the totals into figures. Nothing is averaged over batches, so the figures
depend neither on the batch size nor on how many devices or hosts computed them.
"""

from jaxmodels.metrics.bleu import bleu
from jaxmodels.metrics.classification import (
    classification,
    classification_figures,
    classification_sums,
)
from jaxmodels.metrics.evaluation import Evaluation
from jaxmodels.metrics.latent import elbo, iwae, reconstruction
from jaxmodels.metrics.regression import regression, regression_figures, regression_sums
from jaxmodels.metrics.tokens import consecutive, next_token, next_token_in_chunks, seq2seq

__all__ = [
    "Evaluation",
    "bleu",
    "classification",
    "classification_figures",
    "classification_sums",
    "consecutive",
    "elbo",
    "iwae",
    "next_token",
    "next_token_in_chunks",
    "reconstruction",
    "regression",
    "regression_figures",
    "regression_sums",
    "seq2seq",
]
