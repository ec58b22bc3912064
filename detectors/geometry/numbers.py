"""Checks of the numbers that configurations give: a wrong one is refused where the detector is made."""


def require_count(name: str, value: int, least: int = 1) -> None:
    """ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}={value!r} is not a whole number")
    if value < least:
        raise ValueError(f"{name}={value!r} is not at least {least}")


def require_share(name: str, value: float) -> None:
    """ValueError unless `value` lies in [0, 1]."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} is not a number from 0 to 1")


def require_above_zero(name: str, value: float) -> None:
    """ValueError unless `value` is a finite number above 0."""
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r} is not above 0, or not finite")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
