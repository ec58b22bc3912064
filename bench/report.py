"""Writes the Markdown report of one benchmark session, with plots beside it, from its JSON.

python bench/report.py results.json [report.md]     plots go to the folder report/
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from goals import goals_table
from judging import judging_tables
from plots import write_plots
from segments import segments_table
from session import Session, read_session
from tables import evidence_table, head_tables, memory_table, step_table, sweep_table

HOW_ON_GPU = """\
Time is the time between two events in the device's queue, median of the rounds. Before each round the caches are
overwritten and the queue is filled, as in training, where the host runs ahead. A wait of the host counts in full.
Host: the time on the host's clock from an idle device until the last launch is queued. Memory is the allocator's
peak."""
HOW_ON_CPU = """\
Time is the wall clock's, median of the rounds. Caches are not cleared between rounds. Memory is the peak of a process
as the operating system counts it, at the stage "early", with a process of its own for each measurement. Of a training
step it is what the process takes beyond its size before the detector was built, images included. There is no column for
host time: on a CPU it is the time itself."""


def write_report(
    source: Path, target: Path, first: Sequence[str] = (), last: Sequence[str] = (), command: str = "make bench"
) -> None:
    """Reads the JSON `source`, writes the Markdown `target` and the plots in a folder of its name without suffix.

    `first` and `last` are lines of more sections, before the goals and at the end.
    """
    session = read_session(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    plots = write_plots(session, target.with_suffix(""))
    links = {title: f"![{title}]({path.relative_to(target.parent).as_posix()})" for title, path in plots.items()}

    def plot(title: str) -> list[str]:
        return ["", links[title]] if title in links else []

    lines = [
        *_opening(session, command),
        "",
        *first,
        *[""] * bool(first),
        "## Goals",
        "",
        "A range covers stages, shapes or precisions. Its worse end decides.",
        "",
        *goals_table(session),
        "",
        "## Heads",
        "",
        "In brackets: the ratio to the median of `rst, sparse targets`; above 1 is slower than rst.",
        *head_tables(session),
        "",
        "## Several rankings in one call",
        *segments_table(session),
        "",
        "## Growing number of logits",
        "",
        '1,500 positives, stage "early".',
        *plot("Time against logits"),
        *plot("Share of the copy bandwidth"),
        *sweep_table(session, "negatives"),
        "",
        "## Growing number of positives",
        "",
        '1,000,000 negatives, stage "early".',
        *plot("Time against positives"),
        *plot("Error against the exact gradient"),
        *sweep_table(session, "positives"),
        "",
        "## Peak memory beyond inputs and gradient, MiB",
        *plot("Peak memory"),
        *memory_table(session),
        "",
        "## Training step",
        *step_table(session),
        "",
        "## Evaluation and the check of data",
        "",
        "Wall clock. An evaluator gets the annotation file and a list of detections. It is timed only if it agrees",
        "with pycocotools or lvis on a smaller set. The check is timed as a command, and opens every image file.",
        *judging_tables(session),
        "",
        "## Static evidence",
        "",
        "Compiled, not run: no GPU is needed. Ranges cover dtypes, hard and smooth steps, and forms of `ignore`.",
        "Registers: per thread. Spilled, stack: bytes per thread (on AMD: spilled registers). Shared: bytes per",
        "program. Instructions: the length of the code, in which a loop counts once.",
        *evidence_table(session),
        *last,
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _opening(session: Session, command: str) -> list[str]:
    machine, facts = session.machine, session.facts
    versions = [f"{name} {machine[name]}" for name in ("torch", "cuda", "triton", "torchvision") if machine.get(name)]
    absent = [f"{name} ({why})" for name, why in facts["not_measured"].items() if name.startswith("rst")]
    checks = [case["difference"] for case in facts["cross_checks"]]
    lines = [
        f"# Benchmarks: {machine['device']}",
        "",
        f"{machine['threads']} threads of the CPU; {', '.join(versions)}, Python {machine['python_version']}; commit "
        f"{session.commit}; {session.date}.",
        f"A copy reads and writes {machine['copy_bandwidth'] / 1e9:,.1f} GB/s.",
        f"Written by `{command}`.",
        "",
        "Forward and backward together. The error of a gradient is its L1 distance from the exact gradient in float64,",
        "divided by the L1 norm of that. An exact contender with an error above 1e-5 is not reported. Stages are",
        "distributions of logits (bench/shapes.py). Bandwidth is the time to copy 12 bytes a logit (two reads, and the",
        "write of the gradient), as a share of the contender's time.",
        HOW_ON_GPU if session.on_gpu else HOW_ON_CPU,
    ]
    if not session.on_gpu:
        lines.append("`rst` is the torch backend here.")
    if absent:
        lines.append(f"Not measured: {', '.join(absent)}.")
    if checks:
        lines.append(
            f"The truth in float64 was compared with the per-positive loop in float64 on {len(checks)} rankings: the"
            f" largest relative difference is {max(checks):.0e}."
        )
    return lines


if __name__ == "__main__":
    given = Path(sys.argv[1])
    write_report(given, Path(sys.argv[2]) if len(sys.argv) > 2 else given.with_suffix(".md"))
