"""`rst plot`: draw the curves of runs, and print the diagnostics of the paper."""

import argparse
from pathlib import Path

HELP = """\
usage: rst plot RUN [RUN ...] [--output FILE.png]

Draw what RUN/metrics.csv holds, while the run goes on or afterwards: losses, Spearman's rank correlation of
classification score and IoU of the positives, negatives per positive, task balance, learning rate and validation
metrics. Print the averages that the paper states: the correlation over all and over the last 100 iterations, the
negatives per positive over the first epoch. Several runs are drawn into one picture, to be compared.

where:
  RUN             folder of a run
  --output FILE   the picture (default: RUN/curves.png; required for several runs)
"""


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    parser = argparse.ArgumentParser(prog="rst plot", add_help=False, allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(argv)
    if len(options.runs) > 1 and options.output is None:
        parser.error("--output FILE.png is required where several runs are drawn")

    from rst.training.curves import draw_curves, run_names
    from rst.training.run import RunFolder
    from rst.training.summary import format_summary, summarise

    picture = draw_curves(options.runs, options.output or RunFolder(options.runs[0]).curves)
    summary = format_summary(dict(zip(run_names(options.runs), map(summarise, options.runs), strict=True)))
    print(*filter(None, (summary, picture)), sep="\n")
    return 0
