"""`rst plot`: draw the curves of runs, and print the diagnostics of the paper."""

from pathlib import Path

from rst.cli.outputs import refuse_inputs
from rst.cli.parsers import command_parser, wants_help

FIGURES = {".png", ".pdf", ".svg", ".jpg", ".jpeg"}


def main(argv: list[str]) -> int:
    parser = command_parser(
        "plot",
        "RUN [RUN ...] [--output FILE.png]",
        "Draw what RUN/metrics.csv holds, while the run goes on or afterwards: losses, Spearman's rank correlation of\n"
        "classification score and IoU of the positives, negatives per positive, task balance, learning rate and\n"
        "validation metrics. Print the averages that the paper states: the correlation over all and over the last 100\n"
        "iterations, the negatives per positive over the first epoch. Several runs go into one figure.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="the figure (default: RUN/curves.png; required for several runs)",
    )
    if wants_help(parser, argv):
        return 2
    options = parser.parse_args(argv)
    if len(options.runs) > 1 and options.output is None:
        parser.error("--output FILE.png is required where several runs are drawn")

    if options.output is not None:
        for run in options.runs:
            refuse_inputs("--output", options.output, files=_records(run))

    from rst.training.curves import draw_curves, run_names
    from rst.training.records import CURVES_FILE
    from rst.training.summary import format_summary

    figure = draw_curves(options.runs, options.output or options.runs[0] / CURVES_FILE)
    summary = format_summary(dict(zip(run_names(options.runs), options.runs, strict=True)))
    print(*filter(None, (summary, figure)), sep="\n")
    return 0


def _records(run: Path) -> dict[str, Path]:
    """The run's folder, and what it holds but for figures: settings, logs, checkpoints, evaluations."""
    held = [file for pattern in ("*", "*/*") for file in run.glob(pattern)]
    return {"RUN": run} | {f"{file.relative_to(run)} of": file for file in held if file.suffix.lower() not in FIGURES}
