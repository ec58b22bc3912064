"""The table of a study: one row for each group of runs that differ in their seeds alone, as Markdown and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from .results import COLLAPSE, METRICS, NOTHING, Result

LEGEND = f"""\
AP, AP50, AP75 and oLRP (lower is better) are those of the last epoch, in per cent: mean ± standard deviation over the
seeds. Best AP is that of each seed's best epoch, which the validation set itself has chosen. Spearman is the
correlation of score and IoU over the last 100 steps. The largest gradient norm (before clipping) and lambda are those
of any step of any seed. The largest share of a loss term in the sum of all is a mean over a tenth of a run. A run
collapsed if its AP fell below {COLLAPSE:g} of its own best before, if it stayed below {100 * NOTHING:g} while another
run of the study did not, or if a loss or a parameter was no longer finite. The last kind counts in none of the means.
"""


def grouped(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results by variant and values of the grid, the groups of a variant side by side."""
    by_variant: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        by_variant.setdefault(result.run.variant, {}).setdefault(result.run.group, []).append(result)
    return {name: group for groups in by_variant.values() for name, group in groups.items()}


def as_markdown(results: Sequence[Result], commits: Sequence[str] = ()) -> str:
    """The table with a legend, the runs that collapsed, and those that failed.

    Args:
        results: of all runs.
        commits: of the source that they were trained with.
    """
    spearman, balance = _names(results, "spearman_", "at_end"), _names(results, "balance_", "largest")
    head = ["", "seeds", *METRICS, "best AP", *(f"Spearman {name}" for name in spearman.values())]
    head += ["largest gradient norm", *(f"largest lambda {name}" for name in balance.values())]
    head += ["largest share of a loss term", "collapses", "minutes"]
    lines = [head, ["---"] * len(head)]
    for name, group in grouped(results).items():
        done = [result for result in group if result.status == "done"]
        ended = [result for result in group if result.ended]
        cells = [name, str(len(ended)) if len(ended) == len(group) else f"{len(ended)} of {len(group)}"]
        cells += [_spread([result.final.get(metric, math.nan) for result in done], 100) for metric in METRICS]
        cells += [_spread([result.best.get("AP", math.nan) for result in done], 100)]
        cells += [_spread([result.at_end.get(key, math.nan) for result in done]) for key in spearman]
        cells += [_largest(ended, lambda result: result.largest, key) for key in ("gradient_norm", *balance)]
        cells += [_largest_share(ended), str(sum(bool(result.collapse) for result in group))]
        cells += [_spread([result.seconds / 60 for result in done])]
        lines.append(cells)
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{LEGEND}"
    events = [f"- {result.run.name}: {result.collapse}\n" for result in results if result.collapse]
    text += "\nCollapsed:\n\n" + "".join(events) if events else ""
    failed = [f"- {result.run.name}\n" for result in results if result.status == "failed"]
    text += "\nFailed, and not counted:\n\n" + "".join(failed) if failed else ""
    return text + (f"\nCommit: {', '.join(commits)}\n" if commits else "")


def as_csv(results: Sequence[Result]) -> str:
    """One row for each run that was started, with all that is known of it; metrics in [0, 1], steps from 0."""
    rows = []
    for result in results:
        if result.status == "waiting":
            continue
        row: dict[str, object] = {"variant": result.run.variant, **dict(result.run.point), "seed": result.run.seed}
        row |= {"status": result.status, "seconds": round(result.seconds, 1), "epochs": len(result.curve)}
        row |= result.final | {f"best_{name}": value for name, value in result.best.items()}
        row |= {"best_epoch": result.best_epoch or "", "collapse": result.collapse}
        row |= {f"{name}_last_100": value for name, value in result.at_end.items()}
        for name, value in result.largest.items():
            row |= {f"{name}_largest": value, f"{name}_largest_at": result.at_step[name]}
        row |= {f"{name}_largest_share": value for name, value in result.share.items()}
        rows.append(
            {key: "" if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        )
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _names(results: Iterable[Result], prefix: str, of: str) -> dict[str, str]:
    """The logged names with a prefix -> what follows it, the head's name."""
    found = {name for result in results for name in getattr(result, of) if name.startswith(prefix)}
    return {name: name.removeprefix(prefix) for name in sorted(found)}


def _spread(values: Sequence[float], factor: float = 1) -> str:
    """Mean ± standard deviation of the values that there are."""
    known = [factor * value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    digits = 1 if factor != 1 else 2
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.{digits}f}{spread}"


def _largest(results: Iterable[Result], of: Callable[[Result], dict[str, float]], key: str) -> str:
    values = [of(result)[key] for result in results if key in of(result)]
    return f"{max(values):.3g}" if values else "-"


def _largest_share(results: Iterable[Result]) -> str:
    shares = [(value, name.removeprefix("loss_")) for result in results for name, value in result.share.items()]
    return "{:.2f} {}".format(*max(shares)) if shares else "-"
