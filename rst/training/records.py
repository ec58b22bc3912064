"""Files of a run that are read without torch: the rows of its metrics."""

import csv
from pathlib import Path

METRICS_FILE, CURVES_FILE = "metrics.csv", "curves.png"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]
