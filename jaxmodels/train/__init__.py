"""Training: state, step, loop, evaluation, checkpoints."""

from jaxmodels.train.batch_stats import batch_stats_estimator
from jaxmodels.train.evaluate import evaluate, evaluator
from jaxmodels.train.loop import Action, Diverged, OnScalars, check_finite, fit
from jaxmodels.train.state import State, abstract_state, init
from jaxmodels.train.step import (
    all_finite,
    compile_step,
    jit_step,
    make_step,
    repeat,
    skip_nonfinite,
    state_is_finite,
    update,
)
from jaxmodels.train.trainable import Trainable, merge_frozen, trainable_params

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
    "init",
    "jit_step",
    "make_step",
    "merge_frozen",
    "repeat",
    "skip_nonfinite",
    "state_is_finite",
    "trainable_params",
    "update",
]
