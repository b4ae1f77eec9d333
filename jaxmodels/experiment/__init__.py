"""An experiment as a value, and what can be done with one."""

from jaxmodels.experiment.cli import run
from jaxmodels.experiment.experiment import Experiment
from jaxmodels.experiment.folder import params, results
from jaxmodels.experiment.options import Options
from jaxmodels.experiment.training import Outcome, train

__all__ = ["Experiment", "Options", "Outcome", "params", "results", "run", "train"]
