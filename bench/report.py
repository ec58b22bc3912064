"""Turns the JSON of one benchmark session into a Markdown report with plots beside it.

python bench/report.py results.json [report.md]     plots go to the folder report/
"""

import sys
from pathlib import Path

from goals import goals_table
from judging import judging_tables
from plots import write_plots
from session import Session, read_session
from tables import evidence_table, head_tables, memory_table, step_table, sweep_table

HOW_ON_GPU = """\
Time is the device's, between two events in its queue, median of the rounds. Before each round the caches are
overwritten and the queue is kept full, as in training, where the host runs ahead; what makes the host wait is measured
in full. Memory is the allocator's peak."""
HOW_ON_CPU = """\
Time is the wall clock's, median of the rounds; caches are not cleared between them. Memory is the process's peak as the
operating system counts it, one process for each figure, at the stage "early"."""


def write_report(source: Path, target: Path) -> None:
    """Reads the JSON `source`, writes the Markdown `target` and the plots in a folder of its name without suffix."""
    session = read_session(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    plots = write_plots(session, target.with_suffix(""))
    pictures = {title: f"![{title}]({path.relative_to(target.parent).as_posix()})" for title, path in plots.items()}

    def picture(title: str) -> list[str]:
        return ["", pictures[title]] if title in pictures else []

    lines = [
        *_opening(session),
        "",
        "## What must be seen",
        "",
        "A range is over stages, shapes or precisions; its worse end decides.",
        "",
        *goals_table(session),
        "",
        "## Heads",
        "",
        "In brackets: the median in medians of `rst, sparse targets`; above 1 is slower than ours.",
        *head_tables(session),
        "",
        "## Against the number of logits",
        "",
        '1,500 positives, stage "early".',
        *picture("Time against logits"),
        *picture("Share of the copy bandwidth"),
        *sweep_table(session, "negatives"),
        "",
        "## Against the number of positives",
        "",
        '1,000,000 negatives, stage "early".',
        *picture("Time against positives"),
        *picture("Error against the exact gradient"),
        *sweep_table(session, "positives"),
        "",
        "## Peak memory beyond inputs and gradient, MiB",
        *picture("Peak memory"),
        *memory_table(session),
        "",
        "## Training step",
        *step_table(session),
        "",
        "## Evaluation and the check of data",
        "",
        "Wall clock. An evaluator gets the annotation file and a list of detections; whoever differs from pycocotools",
        "or lvis on a smaller set is not timed. The check is timed from the command line, with a look at every header.",
        *judging_tables(session),
        "",
        "## Static evidence",
        "",
        "Compiled, not run: no GPU is needed for it. Ranges are over dtypes, hard and smooth steps and ways to ignore.",
        "Registers are per thread, spilled and stack in bytes per thread (on AMD spilled registers), shared memory in",
        "bytes per program. Instructions are the code's length: loops count once.",
        *evidence_table(session),
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _opening(session: Session) -> list[str]:
    machine, facts = session.machine, session.facts
    versions = [f"{name} {machine[name]}" for name in ("torch", "cuda", "triton", "torchvision") if machine.get(name)]
    absent = [f"{name} ({why})" for name, why in facts["not_measured"].items() if name.startswith("rst")]
    checks = [case["difference"] for case in facts["cross_checks"]]
    lines = [
        f"# Benchmarks: {machine['device']}",
        "",
        f"{machine['threads']} threads of the CPU; {', '.join(versions)}, Python {machine['python_version']}; commit "
        f"{session.commit}; {session.date}.",
        f"A copy moves {machine['copy_bandwidth'] / 1e9:,.1f} GB/s, read and written.",
        "Written by `make bench`.",
        "",
        "Forward and backward together. The gradient's error is relative, in the L1 norm, against the exact loss in",
        "float64; an exact contender above 1e-5 is refused. Stages are distributions of logits (bench/shapes.py).",
        "Bandwidth is the time that 12 bytes a logit (two reads and the gradient's write) take at the speed of a copy,",
        "as a share of the contender's time.",
        HOW_ON_GPU if session.on_gpu else HOW_ON_CPU,
    ]
    if not session.on_gpu:
        lines.append("`rst` is the portable backend here.")
    if absent:
        lines.append(f"Not measured: {', '.join(absent)}.")
    if checks:
        lines.append(
            f"The float64 truth was compared with the per-positive loop in float64 on {len(checks)} rankings: relative"
            f" difference {max(checks):.0e} at the most."
        )
    return lines


if __name__ == "__main__":
    given = Path(sys.argv[1])
    write_report(given, Path(sys.argv[2]) if len(sys.argv) > 2 else given.with_suffix(".md"))
