"""The faults of a training run that its user can mend; the command line prints them without a traceback."""


class ConfigError(ValueError):
    """A setting, or a combination of settings, that cannot work; the message names key, value and file."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used with this model; the message names the file."""


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite; the message names the term and the step."""
