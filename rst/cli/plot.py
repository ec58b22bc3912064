"""`rst plot`: draw the curves of a run."""

import argparse
from pathlib import Path

HELP = """\
usage: rst plot RUN [--output FILE.png]

Draw the losses, learning rate and validation metrics in RUN/metrics.csv, while the run goes on or afterwards.

where:
  RUN             folder of a run
  --output FILE   the picture (default: RUN/curves.png)
"""


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    parser = argparse.ArgumentParser(prog="rst plot", add_help=False, allow_abbrev=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(argv)

    from rst.training.curves import draw_curves
    from rst.training.run import RunFolder

    print(draw_curves(options.run, options.output or RunFolder(options.run).curves))
    return 0
