"""Experiments: define one as a value, run it from the command line, resume it, read its results."""

from jaxmodels.experiment.cli import run
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.files import params, results
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.start import Start, from_run
from jaxmodels.experiment.training import Outcome, train
from jaxmodels.metric import Published

__all__ = [
    "Experiment",
    "Options",
    "Outcome",
    "Published",
    "Start",
    "from_run",
    "params",
    "results",
    "run",
    "train",
]
