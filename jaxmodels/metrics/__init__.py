"""What papers report, exact: over every example of a split, with padding masked out.

An `Evaluation` is a reduction: `statistics` of each batch on the device, a `reduction` over the
batches (`Sums` on the device, `Rows` on the host) and a `summary` of the whole. Nothing is averaged
over batches, so metrics depend neither on the batch size nor on how many devices or hosts computed
them. `inputs=`, `target=` and `valid=` are names of batch fields, as in `jaxmodels.objectives`.
"""

from jaxmodels.metric import Metric, Published
from jaxmodels.metrics.bleu import bleu
from jaxmodels.metrics.classification import (
    classification,
    classification_metrics,
    classification_sums,
)
from jaxmodels.metrics.evaluation import Evaluation
from jaxmodels.metrics.latent import elbo, iwae, reconstruction
from jaxmodels.metrics.multilabel import auroc, average_precision, multilabel_classification
from jaxmodels.metrics.reductions import Rows, Sums
from jaxmodels.metrics.regression import regression, regression_metrics, regression_sums
from jaxmodels.metrics.tokens import (
    consecutive,
    next_token,
    next_token_in_chunks,
    seq2seq,
    token_classification,
)

__all__ = [
    "Evaluation",
    "Metric",
    "Published",
    "Rows",
    "Sums",
    "auroc",
    "average_precision",
    "bleu",
    "classification",
    "classification_metrics",
    "classification_sums",
    "consecutive",
    "elbo",
    "iwae",
    "multilabel_classification",
    "next_token",
    "next_token_in_chunks",
    "reconstruction",
    "regression",
    "regression_metrics",
    "regression_sums",
    "seq2seq",
    "token_classification",
]
