"""Ahead-of-time plans: memory, FLOPs, collectives and lower bounds of a training step."""

from jaxmodels.plan.plan import Plan, plan
from jaxmodels.plan.target import Target, target

__all__ = ["Plan", "Target", "plan", "target"]
