"""JSON files and typed fields of the objects in them, with faults named by file, id and key.

A field is read as a column of all entries at once. Faults go to a sink: one that raises stops the reading, one that
returns gets all of them.
"""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rst.coco.errors import DataError
from rst.coco.faults import Fault, Sink, entry_name, short

INT64 = range(-(2**63), 2**63)


def load_json(file: Path) -> Any:
    """The content of a JSON file, or a DataError that says where it is broken."""
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    with without_collector():
        try:
            return orjson.loads(raw)  # a third of json's time on 500 MB of annotations
        except ValueError:
            pass  # json reports the place, and reads NaN and other encodings
        try:
            return json.loads(raw)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: is not text: {error}") from None
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{file}: malformed JSON at {place}: {error.msg}") from None
        except RecursionError:
            raise DataError(f"{file}: malformed JSON: lists or objects within each other are too many") from None
        except ValueError as error:  # a number of thousands of digits
            raise DataError(f"{file}: malformed JSON: {error}") from None


@contextmanager
def without_collector() -> Iterator[None]:
    """Without Python's garbage collector, which would walk over millions of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def section_entries(content: Any, key: str, sink: Sink) -> list[dict[str, Any]]:
    """The objects of the list under a top-level key; an empty list if there is none."""
    if not isinstance(content, dict):
        text = f"must hold an object with images, annotations and categories, not a {_kind(content)}"
    elif key not in content:
        text = f"has no key '{key}'; its keys are {sorted(content)[:10]}"
    elif not isinstance(content[key], list):
        text = f"'{key}' must be a list, not a {_kind(content[key])}"
    else:
        entries = content[key]
        if set(map(type, entries)) <= {dict}:
            return entries
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                text = f"{key}[{position}] must be an object, not a {_kind(entry)}"
                sink(Fault("malformed entry", key.removesuffix("s"), None, text, entry))
        return [entry for entry in entries if isinstance(entry, dict)]
    sink(Fault("malformed file", "file", None, text, key))
    return []


def integer_column(
    entries: list[dict[str, Any]], key: str, kind: str, sink: Sink, default: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) int64, `default` or 0 where missing or faulty, and (n,) bool: where they are right."""
    values = [entry.get(key, default) for entry in entries]
    right = np.ones(len(values), bool)
    if set(map(type, values)) <= {int} and min(values, default=0) in INT64 and max(values, default=0) in INT64:
        return np.array(values, np.int64), right
    for position, value in enumerate(values):
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if whole and int(value) in INT64:
            values[position] = int(value)
            continue
        sink(_wrong(entries, position, key, kind, "an integer of 64 bits" if whole else "an integer"))
        values[position], right[position] = default or 0, False
    return np.array(values, np.int64), right


def string_column(entries: list[dict[str, Any]], key: str, kind: str, sink: Sink) -> list[str]:
    """One text per entry, empty where it is missing or faulty."""
    values = []
    for position, entry in enumerate(entries):
        value = entry.get(key)
        if not (isinstance(value, str) and value):
            sink(_wrong(entries, position, key, kind, "a non-empty text"))
            value = ""
        values.append(value)
    return values


def report_duplicates(ids: np.ndarray, kind: str, sink: Sink) -> None:
    values, counts = np.unique(ids, return_counts=True)
    for i in np.flatnonzero(counts > 1):
        text = f"{kind} id {values[i]} is used {counts[i]} times"
        sink(Fault("duplicate id", kind, int(values[i]), text, int(counts[i])))


def _wrong(entries: list[dict[str, Any]], position: int, key: str, kind: str, wanted: str) -> Fault:
    entry = entries[position]
    name = entry_name(entry, position, kind, key)
    value = entry.get(key)
    text = f"{name}: '{key}' must be {wanted}, is {short(value)}" if key in entry else f"{name} has no key '{key}'"
    return Fault("malformed entry", kind, None if key == "id" else entry.get("id"), text, value)


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")
