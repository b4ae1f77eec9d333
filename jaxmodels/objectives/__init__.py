"""What training minimises: `(params, collections, batch, key, step) -> (loss, Aux)`.

A loss is a sum of named terms (`jaxmodels.terms`); `inputs=`, `target=` and `valid=` are names of
batch fields, as in `jaxmodels.metrics`.
"""

from jaxmodels.objectives.contrastive import contrastive
from jaxmodels.objectives.latent import elbo, iwae
from jaxmodels.objectives.objective import Objective, Prepared
from jaxmodels.objectives.penalties import l1, l2, penalized
from jaxmodels.objectives.reconstruction import (
    gaussian_noise,
    masking_noise,
    reconstruction,
    squared_error,
)
from jaxmodels.objectives.supervised import classification, multilabel_classification, regression
from jaxmodels.objectives.tokens import (
    next_token,
    next_token_in_chunks,
    seq2seq,
    token_classification,
    truncated,
)
from jaxmodels.terms import Aux, Term

__all__ = [
    "Aux",
    "Objective",
    "Prepared",
    "Term",
    "classification",
    "contrastive",
    "elbo",
    "gaussian_noise",
    "iwae",
    "l1",
    "l2",
    "masking_noise",
    "multilabel_classification",
    "next_token",
    "next_token_in_chunks",
    "penalized",
    "reconstruction",
    "regression",
    "seq2seq",
    "squared_error",
    "token_classification",
    "truncated",
]
