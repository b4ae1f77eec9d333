"""Neural networks as pure functions on JAX and Flax Linen: models, training, evaluation."""

__version__ = "0.2.0"
