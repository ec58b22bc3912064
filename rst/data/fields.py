"""JSON files and typed fields of the objects in them, with faults named by file, id and key."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rst.data.errors import DataError


def load_json(file: Path) -> Any:
    """The content of a JSON file, or a DataError that says where it is broken."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not text: {error}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None


def section(content: Any, key: str, file: Path) -> list[dict[str, Any]]:
    """The list of objects under a top-level key."""
    if not isinstance(content, dict):
        raise DataError(f"{file}: must hold an object with images, annotations and categories, not a {_kind(content)}")
    if key not in content:
        raise DataError(f"{file}: has no key '{key}'; its keys are {sorted(content)[:10]}")
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{file}: '{key}' must be a list, not a {_kind(entries)}")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{file}: {key}[{position}] must be an object, not a {_kind(entry)}")
    return entries


def integers(entries: list[dict[str, Any]], key: str, kind: str, file: Path) -> np.ndarray:
    """(len(entries),) int64."""
    values = [entry.get(key) for entry in entries]
    for position, value in enumerate(values):
        if type(value) is not int and not (type(value) is float and math.isfinite(value) and value == int(value)):
            raise _wrong(entries, position, key, kind, "an integer", file)
    try:
        return np.array(values, np.int64)
    except OverflowError:
        raise DataError(f"{file}: '{key}' of some {kind} is beyond 64 bits") from None


def strings(entries: list[dict[str, Any]], key: str, kind: str, file: Path) -> list[str]:
    """One non-empty text per entry."""
    values: list[str] = []
    for position, entry in enumerate(entries):
        value = entry.get(key)
        if not (isinstance(value, str) and value):
            raise _wrong(entries, position, key, kind, "a non-empty text", file)
        values.append(value)
    return values


def _wrong(entries: list[dict[str, Any]], position: int, key: str, kind: str, wanted: str, file: Path) -> DataError:
    entry = entries[position]
    which = f"{kind} {short(entry['id'])}" if key != "id" and "id" in entry else f"{kind} number {position + 1}"
    if key not in entry:
        return DataError(f"{file}: {which} has no key '{key}'")
    return DataError(f"{file}: {which}: '{key}' must be {wanted}, is {short(entry[key])}")


def refuse_duplicates(ids: np.ndarray, kind: str, file: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    for i in np.flatnonzero(counts > 1):
        raise DataError(f"{file}: {kind} id {values[i]} is used {counts[i]} times")


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
