"""Listening to the methods of an object under test."""

from typing import Any


def record(owner: object, method: str, *, argument: bool = False, position: int = 0) -> list[Any]:
    """The results of every later call of a method; with `argument` what it was called with, at that position."""
    seen, original = [], getattr(owner, method)

    def call(*args: Any) -> Any:
        result = original(*args)
        seen.append(args[position] if argument else result)
        return result

    setattr(owner, method, call)
    return seen
