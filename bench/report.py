"""Turns the JSON of one benchmark session into a Markdown report of medians and ratios.

python bench/report.py results.json [report.md]
"""

import json
import sys
from pathlib import Path
from typing import Any

OURS = "rst, sparse targets"


def write_report(session: dict[str, Any], path: Path, commit: str) -> None:
    """One table for each group of benchmarks: median, its spread, and the ratio to our loss in the same session."""
    machine = session["machine_info"]
    lines = [
        "# Benchmarks",
        "",
        f"{machine['device']}, {machine['threads']} threads; torch {machine['torch']}, Python "
        f"{machine['python_version']}; commit {commit}; {session['datetime'][:10]}.",
        "",
        "Forward and backward, median of the rounds; the ratio is the contender's median over that of ours with sparse",
        "targets, from the same session. Written by `make bench`.",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in session["benchmarks"]:
        groups.setdefault(entry["group"], []).append(entry)
    for name, entries in groups.items():
        lines += ["", f"## {name}", "", *_table(entries)]
    path.write_text("\n".join(lines) + "\n")


def _table(entries: list[dict[str, Any]]) -> list[str]:
    ours = [entry["stats"]["median"] for entry in entries if entry["extra_info"]["contender"] == OURS]
    rows = [
        "| contender | logits | median, ms | fastest to slowest, ms | ratio | figures |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        stats, extra = entry["stats"], dict(entry["extra_info"])
        contender, logits = extra.pop("contender"), extra.pop("logits", None)
        ratio = f"{stats['median'] / ours[0]:.2f}" if len(ours) == 1 and len(entries) > 1 else ""
        figures = ", ".join(f"{key} {_short(value)}" for key, value in extra.items() if key not in ("shape", "stage"))
        rows.append(
            f"| {contender} | {'' if logits is None else f'{logits:,}'} | {stats['median'] * 1e3:.1f} "
            f"| {stats['min'] * 1e3:.1f} to {stats['max'] * 1e3:.1f} | {ratio} | {figures} |"
        )
    return rows


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else source.with_suffix(".md")
    written = json.loads(source.read_text())
    write_report(written, target, written["commit_info"].get("id", "unknown")[:9])
