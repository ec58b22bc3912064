"""The report of a run: `python -m gpu_run.results STATE REPORT.md`, from what the parts left in the folder STATE.

It is written beside, then moved into place: a report is never half new.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from session import significant

from .clocks import READINGS, TOOL, ranges

LISTED = 40  # launches or operators in a table; the trace has all of them
METRICS = ("AP", "AP50", "AP75", "oLRP")


def write_results(state: Path, target: Path) -> None:
    """Writes `target` and the plots in the folder of its name."""
    run = json.loads((state / "run.json").read_text())
    draft = state / "report" / target.name
    shutil.rmtree(draft.parent, ignore_errors=True)
    draft.parent.mkdir(parents=True)
    parts, more = [*parts_section(state, run), *settings_section(run)], []
    for name, section in (("timeline", timeline_section), ("training", training_section)):
        more += section(state / name) if name in {part["name"] for part in run["parts"]} else []
    merged = merge([state / part["name"] / "benchmarks.json" for part in run["parts"]])
    if merged is None:
        lines = [
            f"# Benchmarks: {run['device']}",
            "",
            f"Commit {run['commit']}.",
            "No benchmark has ended.",
            "",
            *parts,
        ]
        draft.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
    else:
        from report import write_report  # imports torch and matplotlib, which takes seconds

        merged["commit"] = run["commit"]
        (state / "benchmarks.json").write_text(json.dumps(merged))
        write_report(state / "benchmarks.json", draft, first=parts, last=more, command=run["command"])
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn, plots = draft.with_suffix(""), target.with_suffix("")
    shutil.rmtree(plots, ignore_errors=True)
    if drawn.is_dir() and any(drawn.iterdir()):
        shutil.copytree(drawn, plots)
    temporary = target.with_name(f".{target.name}.part")
    shutil.copyfile(draft, temporary)
    temporary.replace(target)


def merge(files: list[Path]) -> dict[str, Any] | None:
    """One session of several JSON files of pytest-benchmark. Those that are absent or cut off are left out."""
    merged: dict[str, Any] | None = None
    for file in files:
        try:
            session = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if merged is None:
            merged = session
            continue
        merged["benchmarks"] += session["benchmarks"]
        for name, fact in session["facts"].items():
            if isinstance(fact, list):
                merged["facts"][name] = merged["facts"].get(name, []) + fact
            elif name == "not_measured":
                merged["facts"][name] |= fact
            else:
                merged["facts"][name] = fact
    return merged


def parts_section(state: Path, run: dict[str, Any]) -> list[str]:
    """One row for each part: its result, and the range of the clocks while it ran."""
    lines = ["## Parts", "", "Clocks are read every 10 seconds while a part runs.", ""]
    lines += [f"| part | what | result | s | {' | '.join(READINGS)} |", f"|---|---|---|---|{'---|' * len(READINGS)}"]
    for part in run["parts"]:
        readings = ranges(state / part["name"] / "clocks.csv") or ["–"] * len(READINGS)
        result = part["result"] + (f": {part['note']}" if part["note"] else "")
        if part["result"] in ("failed", "out of time"):
            result = f"**{result}**"
        seconds = f"{part['seconds']:.0f}" if part["seconds"] else "–"
        lines.append(f"| {part['name']} | {part['title']} | {result} | {seconds} | {' | '.join(readings)} |")
    return lines


def settings_section(run: dict[str, Any]) -> list[str]:
    """The settings of the GPU, as found."""
    found = run["clocks"]
    settings = f"nvidia-smi: {', '.join(f'{name} {value}' for name, value in found.items())}"
    if TOOL in found:
        settings = f"{TOOL} {found[TOOL]}"
    return ["", f"Sources {run['sources']}. {settings}."]


def timeline_section(folder: Path) -> list[str]:
    """A table of each shape: launches in their order, or operators by their own time."""
    lines = ["", "## Time line of one forward and backward", "", 'Sparse targets, stage "early"; recorded by']
    lines += ["torch.profiler after warm runs. Recording makes the host slower: gaps are longer than without it."]
    file = folder / "timeline.json"
    if not file.exists():
        return [*lines, "", "Not measured in this session."]
    for shape in json.loads(file.read_text()):
        lines += ["", f"### {shape['shape']}", ""]
        launches, operators = shape["launches"], shape["operators"]
        if launches:
            span = max(launch["start"] + launch["duration"] for launch in launches)
            busy = sum(launch["duration"] for launch in launches)
            lines += [
                f"{len(launches)} launches in {significant(span)} µs, of which the GPU works {significant(busy)} µs."
            ]
            lines += ["", "| | launch | starts, µs | takes, µs |", "|---|---|---|---|"]
            lines += [
                f"| {number} | {_short(launch['name'])} | {launch['start']:.1f} | {launch['duration']:.1f} |"
                for number, launch in enumerate(launches[:LISTED], 1)
            ]
        else:
            lines += [f"{sum(entry['calls'] for entry in operators)} calls of operators.", ""]
            lines += ["| operator | calls | its own time, µs |", "|---|---|---|"]
            lines += [
                f"| {_short(entry['name'])} | {entry['calls']} | {entry['own']:.0f} |" for entry in operators[:LISTED]
            ]
        left = max(len(launches), len(operators)) - LISTED
        lines += ["", f"The {left} others are in the trace."] if left > 0 else []
    return lines


def training_section(folder: Path) -> list[str]:
    """AP and oLRP of the trained detector."""
    lines = ["", "## Training of the demo", ""]
    file = folder / "evaluation" / "metrics.json"
    if not file.exists():
        return [*lines, "Not measured in this session."]
    metrics = json.loads(file.read_text())
    shown = [name for name in METRICS if isinstance(metrics.get(name), (int, float))]
    lines += ["In percent, on the validation images.", "", f"| {' | '.join(shown)} |", f"|{'---|' * len(shown)}"]
    return [*lines, f"| {' | '.join(f'{100 * metrics[name]:.1f}' for name in shown)} |"]


def _short(name: str) -> str:
    """A name that does not break a table."""
    name = " ".join(name.split()).replace("|", "/")
    return name if len(name) <= 80 else f"{name[:77]}..."


if __name__ == "__main__":
    write_results(Path(sys.argv[1]), Path(sys.argv[2]))
