"""Models of the large-model era as pure functions on JAX."""

__version__ = "0.2.0"
