"""Custom gradients and backend-specific code: pure functions of arrays."""
