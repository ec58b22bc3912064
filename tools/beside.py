"""Prints what `rst evaluate` wrote of several runs, one beside the other: boxes and masks, in per cent.

    python tools/beside.py runs/demo-masks runs/demo-masks-baseline

Of each run, RUN/evaluation/metrics.json (boxes) and RUN/evaluation/masks.json are read.
"""

import argparse
import json
from pathlib import Path

METRICS = ("AP", "AP50", "AP75", "oLRP")
FILES = {"boxes": "metrics.json", "masks": "masks.json"}


def table(runs: list[Path]) -> str:
    """A line for each run; "-" for what is undefined.

    Raises:
        ValueError: a file that is missing or holds no metrics; names it.
    """
    width = max(len(str(run)) for run in runs)
    cell = max(map(len, METRICS)) + 3
    groups = "".join(f"{kind:>{cell}}{'':{cell * (len(METRICS) - 1)}}" for kind in FILES)
    lines = [
        f"{'':{width}}{groups}".rstrip(),
        " " * width + "".join(f"{name:>{cell}}" for name in METRICS * len(FILES)),
    ]
    for run in runs:
        values = [value for name in FILES.values() for value in _metrics(run / "evaluation" / name)]
        cells = "".join(f"{'-' if value < 0 else format(100 * value, '.1f'):>{cell}}" for value in values)
        lines.append(f"{run!s:<{width}}{cells}")
    return "\n".join(lines) + "\noLRP: lower is better. One run of each: differences of a point or two are chance."


def _metrics(file: Path) -> list[float]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [float(content[name]) for name in METRICS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: no metrics of rst evaluate: {type(error).__name__}: {error}") from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the metrics of evaluated runs, one beside the other.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    try:
        print(table(parser.parse_args().runs))
    except ValueError as error:
        parser.error(str(error))
