"""An experiment as a value, and what can be done with one."""

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
