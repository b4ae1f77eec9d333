"""What training minimises: functions of (params, collections, batch, key)."""

from jaxmodels.objectives.latent import elbo, image_and_label, iwae
from jaxmodels.objectives.objective import Aux, Objective
from jaxmodels.objectives.penalties import l1, l2, penalized
from jaxmodels.objectives.reconstruction import (
    gaussian_noise,
    masking_noise,
    reconstruction,
    squared_error,
)
from jaxmodels.objectives.supervised import classification, regression
from jaxmodels.objectives.tokens import next_token, next_token_in_chunks, seq2seq, truncated

__all__ = [
    "Aux",
    "Objective",
    "classification",
    "elbo",
    "gaussian_noise",
    "image_and_label",
    "iwae",
    "l1",
    "l2",
    "masking_noise",
    "next_token",
    "next_token_in_chunks",
    "penalized",
    "reconstruction",
    "regression",
    "seq2seq",
    "squared_error",
    "truncated",
]
