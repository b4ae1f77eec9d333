"""The training state, the step, evaluation and the loop."""

from jaxmodels.train.evaluate import evaluate, evaluator
from jaxmodels.train.loop import Action, Diverged, OnScalars, check_finite, fit
from jaxmodels.train.state import State, abstract, init
from jaxmodels.train.step import (
    all_finite,
    compile_step,
    healthy,
    make_step,
    placed_step,
    repeat,
    skip_nonfinite,
    update,
)

__all__ = [
    "Action",
    "Diverged",
    "OnScalars",
    "State",
    "abstract",
    "all_finite",
    "check_finite",
    "compile_step",
    "evaluate",
    "evaluator",
    "fit",
    "healthy",
    "init",
    "make_step",
    "placed_step",
    "repeat",
    "skip_nonfinite",
    "update",
]
