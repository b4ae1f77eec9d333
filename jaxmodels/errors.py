"""The error for mistakes of the user."""


class UserError(ValueError):
    """Wrong arguments, options, data or files; `run` prints it without traceback."""
