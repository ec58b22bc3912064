"""Errors of a training run that its user can correct; the command line prints them without a traceback."""


class ConfigError(ValueError):
    """A setting, or a combination of settings, that cannot work; the message names key, value and file."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or used with this model; the message names the file."""


class CheckpointSaveError(CheckpointError):
    """A checkpoint that cannot be written; the message names the file and whether the previous one is intact."""


class NonFiniteError(ArithmeticError):
    """A loss or a weight became NaN or infinite; the message names it and the step."""


class DownloadError(OSError):
    """A file that could not be fetched; the message names it and what to do instead."""
