"""A training step compiled ahead of time for devices that are not here, and what that tells."""

from jaxmodels.plan.plan import Plan, plan
from jaxmodels.plan.target import Target, target

__all__ = ["Plan", "Target", "plan", "target"]
