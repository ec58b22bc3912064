"""One benchmark session, read from its JSON: the input of the tables, the plots and the goals."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("initialisation", "early", "late")


@dataclass(frozen=True)
class Record:
    """One timed case."""

    median: float  # seconds
    rounds: int
    extra: dict[str, Any]  # extra_info: table, contender, and the other entries of its table

    def __getattr__(self, name: str) -> Any:
        """An entry; None where there is none (a session on a GPU has more entries)."""
        return self.extra.get(name)


@dataclass(frozen=True)
class Session:
    """All records in the order of measurement, and the facts stored beside them."""

    machine: dict[str, Any]
    commit: str
    date: str
    records: list[Record]
    facts: dict[str, Any]

    @property
    def on_gpu(self) -> bool:
        return self.machine["device_type"] != "cpu"

    def select(self, **where: Any) -> list[Record]:
        """The records with these entries."""
        return [record for record in self.records if all(record.extra.get(key) == where[key] for key in where)]

    def find(self, **where: Any) -> Record | None:
        """The record with these entries; more than one is an error."""
        found = self.select(**where)
        assert len(found) <= 1, f"{len(found)} records with {where}"
        return found[0] if found else None

    def values(self, key: str, **where: Any) -> list[Any]:
        """The different values of an entry, in order of first appearance."""
        return list(dict.fromkeys(record.extra[key] for record in self.select(**where) if key in record.extra))

    def peak(self, shape: str, contender: str) -> float | None:
        """MiB beyond inputs and gradient: on a GPU the maximum over stages, on a CPU that of a process of its own."""
        records = self.select(shape=shape, contender=contender)
        peaks = [record.peak_mib for record in records if record.peak_mib is not None]
        return max(peaks) if peaks else None

    def left_out(self, **where: Any) -> list[dict[str, Any]]:
        """The cases with these entries that were not measured, each with its reason."""
        return [case for case in self.facts["left_out"] if all(case.get(key) == where[key] for key in where)]


def read_session(path: Path) -> Session:
    """Reads the JSON of pytest-benchmark, with the additions of bench/conftest.py."""
    written = json.loads(path.read_text())
    records = [
        Record(entry["stats"]["median"], entry["stats"]["rounds"], entry["extra_info"])
        for entry in written["benchmarks"]
        if "contender" in entry["extra_info"]
    ]
    return Session(written["machine_info"], written["commit"], written["datetime"][:10], records, written["facts"])


def milliseconds(seconds: float) -> str:
    """Milliseconds with three significant digits."""
    return significant(seconds * 1e3)


def significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.9995 else f"{value:.3g}"
