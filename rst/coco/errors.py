"""What the readers of annotation files say about faulty input."""


class DataError(ValueError):
    """A fault in the user's data. The message names the file, the id or key, and the value."""


class DataWarning(UserWarning):
    """A fault that was worked around (a box left out), reported once per annotation file."""
