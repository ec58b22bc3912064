"""The paper's diagnostics in numbers, from a run's metrics.csv: rank correlation, negatives per positive, balance."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rst.training.curves import Series, read_metrics
from rst.training.heads import read_heads
from rst.training.records import METRICS_FILE, read_rows

LAST = 100  # iterations: the paper averages its correlation over all and over the last hundred


def summarise(run: Path) -> dict[str, float]:
    """Averages of a run's statistics.

    Args:
        run: the folder of the run, with its metrics.csv.

    Returns:
        For each head *, as far as the run logged them:
            spearman_*, spearman_*_last_100   means over the logged iterations that have a value; the last hundred are
                                              those of the last hundred optimiser steps
            negatives_per_positive_*          mean over the logged iterations of the first epoch (Table 10 of the paper)
            negatives_to_positives_*          sum of the negatives over sum of the positives in the same iterations, the
                                              other reading of that table
            balance_*, balance_*_largest      median and largest value of the logged iterations
    """
    path = run / METRICS_FILE
    curves = read_metrics(path)
    first_epoch = {int(row["step"]) for row in read_rows(path) if row.get("epoch") == "0"}
    last_step = max(steps[-1] for steps, _ in curves.values())
    found: dict[str, float] = {}
    for head in read_heads(run, curves):
        correlation, balance = f"spearman_{head}", f"balance_{head}"
        if correlation in curves:
            steps, values = curves[correlation]
            found[correlation] = float(values.mean())
            if len(last := values[steps > last_step - LAST]):
                found[f"{correlation}_last_{LAST}"] = float(last.mean())
        if balance in curves:
            _, values = curves[balance]
            found |= {balance: float(np.median(values)), f"{balance}_largest": float(values.max())}
        ratio, positives, negatives = (
            _of_steps(curves.get(f"{name}_{head}"), first_epoch)
            for name in ("negatives_per_positive", "positives", "negatives")
        )
        if len(ratio):
            found[f"negatives_per_positive_{head}"] = float(ratio.mean())
        if positives.sum() > 0:
            found[f"negatives_to_positives_{head}"] = float(negatives.sum() / positives.sum())
    return found


def _of_steps(series: Series | None, wanted: set[int]) -> np.ndarray:
    if series is None:
        return np.array([])
    steps, values = series
    return values[np.isin(steps, list(wanted))]


def format_summary(runs: Mapping[str, Path]) -> str:
    """A table of `summarise`'s numbers, one column per run, by its name; an empty string where no run has any."""
    heads: dict[str, str] = {}
    for run in runs.values():
        heads |= read_heads(run, read_metrics(run / METRICS_FILE))
    numbers = {name: summarise(run) for name, run in runs.items()}
    lines = []
    for head, title in heads.items():
        title = title[0].upper() + title[1:]
        lines += [
            (f"{title}: Spearman's correlation, all iterations", f"spearman_{head}", ".3f"),
            (f"{title}: the same, last {LAST}", f"spearman_{head}_last_{LAST}", ".3f"),
            (f"{title}: negatives per positive, first epoch, mean of ratios", f"negatives_per_positive_{head}", ".1f"),
            (f"{title}: the same, ratio of sums", f"negatives_to_positives_{head}", ".1f"),
            (f"{title}: balance (lambda), median", f"balance_{head}", ".3g"),
            (f"{title}: the same, largest", f"balance_{head}_largest", ".3g"),
        ]
    table = [
        [label, *(format(found[name], style) if name in found else "-" for found in numbers.values())]
        for label, name, style in lines
        if any(name in found for found in numbers.values())
    ]
    if not table:
        return ""
    table = [["", *runs], *table] if len(runs) > 1 else table
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )
