"""`python -m tools.study`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .plan import Run, read_study
from .records import ENDED, State, check_same, read_state, write_whole
from .results import read_results
from .table import as_csv, as_markdown, grouped
from .work import Busy, locked, threads_each, train

DESCRIPTION = """\
Train a grid of settings under several seeds, and put all results into one table and two figures. STUDY.yaml has

    config:    the configuration that all runs share
    seeds:     a list of seeds
    settings:  key: value for all runs, as on the command line (trainer.max_epochs: 6)
    grid:      key: [values]; all combinations are run (optimizer.lr: [0.005, 0.01])
    variants:  name: {config: another configuration, settings: {key: value}}

Each run is a process of `rst train`, in OUTPUT/VARIANT/VALUES/seed_N. A run that is done, or ended because a loss was
no longer finite, is skipped; one that was stopped or failed goes on from its last checkpoint. So the same command goes
on with a study. After each run
OUTPUT/study.md, study.csv, curves.png (AP by epoch) and spread.png (AP of every seed) are written anew.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if all runs are done, 1 if one failed, 2 for a mistake in the study, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(
        "python -m tools.study", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of all runs and results")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="train N runs at once (default: 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs; may be repeated"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="train only the runs whose folder has this text")
    parser.add_argument("--table", action="store_true", help="train nothing, write table and figures of what is there")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have started this with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        if options.jobs < 1:
            raise ValueError(f"--jobs: must be at least 1, got {options.jobs}")
        runs = read_study(options.study, options.set)
        for run in runs:
            check_same(run, options.output)
        if options.table:
            print(_write(runs, options.output), end="")
            return 0
        return _train(runs, options)
    except (OSError, ValueError, Busy) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("study: interrupted; the same command goes on", file=sys.stderr)
        return 130


def _train(runs: Sequence[Run], options: argparse.Namespace) -> int:
    output: Path = options.output
    chosen = [run for run in runs if options.only in str(run.folder(output).relative_to(output))]
    if not chosen:
        raise ValueError(f"--only: no folder has {options.only!r}, they are like {runs[0].folder(output)}")
    with locked(output) as lock:
        left = [run for run in chosen if _status(run, output) not in ENDED]
        print(
            f"study: {len(chosen)} runs, {len(chosen) - len(left)} ended; {options.jobs} at once, "
            f"of {threads_each(options.jobs)} threads unless OMP_NUM_THREADS says otherwise",
            flush=True,
        )
        ended: list[Run] = []

        def report(run: Run, state: State) -> None:
            ended.append(run)
            print(f"study: [{len(ended)}/{len(left)}] {run.name}: {_outcome(run, state, output)}", flush=True)
            _write(runs, output)

        train(left, output, options.jobs, lock, report)
        print(_write(runs, output), end="")
    return int(any(_status(run, output) != "done" for run in chosen))


def _status(run: Run, output: Path) -> str:
    state = read_state(run.folder(output))
    return "waiting" if state is None else state.status


def _outcome(run: Run, state: State, output: Path) -> str:
    if state.status != "done":
        return f"{state.status} after {state.seconds:.0f} s: {state.last_line} ({run.folder(output)}/train.log)"
    [result] = read_results([run], output)
    return f"AP {100 * result.final['AP']:.1f}, {state.seconds:.0f} s" if result.final else f"{state.seconds:.0f} s"


def _write(runs: Sequence[Run], output: Path) -> str:
    """Write the table and the figures of all runs so far; returns the table."""
    results = read_results(runs, output)
    states = [read_state(run.folder(output)) for run in runs]
    commits = sorted({state.commit for state in states if state is not None and state.commit})
    table = as_markdown(results, commits)
    write_whole(output / "study.md", table)
    write_whole(output / "study.csv", as_csv(results))
    groups: dict[str, Any] = grouped(results)
    if any(result.curve for result in results):
        from .figures import draw_curves, draw_spread  # late: matplotlib takes longer than most mistakes

        draw_curves(groups, output / "curves.png")
        draw_spread(groups, output / "spread.png")
    return table


if __name__ == "__main__":
    sys.exit(main())
