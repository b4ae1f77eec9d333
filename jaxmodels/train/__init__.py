"""The training state, the step, evaluation and the loop."""

from jaxmodels.train.batch_stats import batch_stats_estimator
from jaxmodels.train.evaluate import evaluate, evaluator
from jaxmodels.train.loop import Action, Diverged, OnScalars, check_finite, fit
from jaxmodels.train.state import State, abstract_state, init
from jaxmodels.train.step import (
    all_finite,
    compile_step,
    healthy,
    jit_step,
    make_step,
    repeat,
    skip_nonfinite,
    update,
)
from jaxmodels.train.trainable import Trainable, trainable_params, with_frozen

__all__ = [
    "Action",
    "Diverged",
    "OnScalars",
    "State",
    "Trainable",
    "abstract_state",
    "all_finite",
    "batch_stats_estimator",
    "check_finite",
    "compile_step",
    "evaluate",
    "evaluator",
    "fit",
    "healthy",
    "init",
    "jit_step",
    "make_step",
    "repeat",
    "skip_nonfinite",
    "trainable_params",
    "update",
    "with_frozen",
]
