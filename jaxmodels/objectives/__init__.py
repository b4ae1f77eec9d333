"""What training minimises: functions of (params, collections, batch, key)."""

from jaxmodels.objectives.objective import Aux, Objective
from jaxmodels.objectives.penalties import l1, l2, penalized
from jaxmodels.objectives.supervised import classification, regression

__all__ = ["Aux", "Objective", "classification", "l1", "l2", "penalized", "regression"]
