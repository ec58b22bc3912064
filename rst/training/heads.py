"""The heads of a run's model, by the name that ends their statistics: titles for curves, tables and drawings."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rst.files import write_whole

HEADS_FILE = "heads.json"
STATISTICS = ("spearman_", "negatives_per_positive_", "balance_")  # what each head may have; its name follows


def write_heads(run: Path, heads: Mapping[str, str]) -> None:
    """Store a model's `heads`, e.g. {"rpn": "RPN", "roi": "R-CNN"}, in the folder of its run."""
    write_whole(run / HEADS_FILE, json.dumps(dict(heads), indent=2) + "\n")


def read_heads(run: Path, metrics: Iterable[str]) -> dict[str, str]:
    """Name and title of each head of a run.

    Args:
        run: its folder; one from before heads were stored has no file of them.
        metrics: names of its metrics. A head that only they show has its name for a title.
    """
    file = run / HEADS_FILE
    heads: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name in metrics:
        for statistic in STATISTICS:
            if name.startswith(statistic):
                head = name.removeprefix(statistic)
                heads.setdefault(head, _title(head, heads))
    return heads


def _title(name: str, heads: Mapping[str, str]) -> str:
    """Of a name that is no head's: "mask_roi", the masks of the head "roi", is "R-CNN (mask)"; others stay."""
    for head, title in heads.items():
        if name.endswith(f"_{head}"):
            return f"{title} ({name.removesuffix(f'_{head}')})"
    return name
