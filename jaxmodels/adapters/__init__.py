"""Models made of a model: precision, rematerialisation, recurrent state, fixed arguments.

An adapter has `init` and `apply` as its model does, and forwards what it does not change: every
attribute, argument, method and collection. So `Cast(Remat(model, policy))` goes wherever a model
goes. `map_model` replaces the model inside an objective, an evaluation or other adapters.
"""

from jaxmodels.adapters.arguments import WithArguments, with_arguments
from jaxmodels.adapters.base import Adapter, check_takes_train, has_model, map_model
from jaxmodels.adapters.function import FunctionModel
from jaxmodels.adapters.precision import Cast
from jaxmodels.adapters.remat import POLICIES, Remat, remat
from jaxmodels.adapters.stateful import Stateful

__all__ = [
    "POLICIES",
    "Adapter",
    "Cast",
    "FunctionModel",
    "Remat",
    "Stateful",
    "WithArguments",
    "check_takes_train",
    "has_model",
    "map_model",
    "remat",
    "with_arguments",
]
