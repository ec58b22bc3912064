"""Faults of annotation files: readers report them to a sink, which raises the first or collects all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rst.coco.errors import DataError


class Fault(NamedTuple):
    """One fault."""

    kind: str  # a key of `rst.data.check.report.KINDS`
    subject: str  # "annotation", "image", "category" or "file"
    id: Any  # of the entry, as in the file; None where it has none
    message: str  # names entry, key and value, not the file
    value: Any = None  # what is wrong, a JSON value


Sink = Callable[[Fault], None]  # takes a fault; if it returns, reading goes on without the faulty value


def refuse(file: Path) -> Sink:
    """A sink that raises the first fault as `DataError`."""

    def raise_first(fault: Fault) -> None:
        raise DataError(f"{file}: {fault.message}")

    return raise_first


def entry_name(entry: dict[str, Any], position: int, kind: str, key: str = "") -> str:
    """The name of an entry in a message: its id, or its place in the file if the id is missing or faulty."""
    named = "id" in entry and key != "id" and isinstance(entry["id"], int | float | str)
    return f"{kind} {short(entry['id'])}" if named else f"{kind} number {position + 1}"


def as_text(value: Any) -> str:
    """A name or a word of a file: text as it is, anything else as `short` writes it, however it is nested."""
    return value if isinstance(value, str) else short(value)


def short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} of many within each other"
    return text if len(text) <= 60 else text[:57] + "..."
