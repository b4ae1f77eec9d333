"""Errors that are the user's to mend."""


class UserError(ValueError):
    """A mistake in what the user gave; `run` prints it without a traceback and exits with 2."""
