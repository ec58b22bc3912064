"""What the runs of a study logged, in numbers."""

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .plan import Run
from .records import ENDED, read_state

METRICS = ("AP", "AP50", "AP75", "oLRP")  # in [0, 1]; the lower oLRP the better
COLLAPSE = 0.1  # of the best AP before
NOTHING = 0.001  # an AP below it is none
LAST = 100  # optimiser steps, of means at the end

Points = list[tuple[int, float]]  # optimiser step from 0 and value, in the order of the steps


@dataclass
class Result:
    """One run.

    Attributes:
        run: which one.
        status: of its `State`; "waiting" where it was not started.
        seconds: of training and validation.
        curve: epoch from 1 and AP, of each validation: of boxes, or of masks where boxes are not validated.
        final, best: metrics after the last validation, and those of the validation with the highest AP.
        best_epoch: when that was.
        largest: name of a logged value -> its largest value: "gradient_norm", "balance_roi", ...
        at_step: the same names -> the step, from 0, of that value.
        at_end: name -> mean over the last hundred steps, of Spearman's correlations and of the loss terms.
        share: loss term -> its largest share in the sum of all, as a mean over a tenth of the run.
        collapse: why the run counts as collapsed; empty if it does not.
    """

    run: Run
    status: str
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    at_step: dict[str, int] = field(default_factory=dict)
    at_end: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    collapse: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is a result: a run that was stopped by its own numbers is one too."""
        return self.status in ENDED


def read_results(runs: Sequence[Run], output: Path) -> list[Result]:
    """The results of all runs, those that have none yet among them; collapses are judged by all of them."""
    results = [_read(run, run.folder(output)) for run in runs]
    some_learn = any(ap >= NOTHING for result in results for _, ap in result.curve)
    for result in results:
        result.collapse = _collapse(result, some_learn)
    return results


def _collapse(result: Result, some_learn: bool) -> str:
    if result.status == "not finite":
        return "not finite"
    best = itertools.accumulate((ap for _, ap in result.curve), max)
    for before, (epoch, ap) in zip(best, result.curve[1:], strict=False):
        if before >= NOTHING and ap < COLLAPSE * before:
            return f"AP {100 * ap:.1f} in epoch {epoch}, after {100 * before:.1f}"
    if result.ended and some_learn and all(ap < NOTHING for _, ap in result.curve):
        return f"AP stays below {100 * NOTHING:g}"
    return ""


def _read(run: Run, folder: Path) -> Result:
    state = read_state(folder)
    if state is None:
        return Result(run, "waiting")
    result = Result(run, state.status, state.seconds)
    rows = _rows(folder / "run" / "metrics.csv")
    columns = {name: _column(rows, name) for name in dict.fromkeys(name for row in rows for name in row)}
    _read_metrics(result, rows, columns)
    for name, points in columns.items():
        if points and name.startswith(("gradient_norm", "balance_")):
            result.at_step[name], result.largest[name] = max(points, key=lambda point: point[1])
        if points and name.startswith(("spearman_", "loss_")):
            last = max(step for step, _ in columns["loss"]) if columns.get("loss") else points[-1][0]
            values = [value for step, value in points if step > last - LAST]
            result.at_end[name] = math.fsum(values) / len(values) if values else math.nan
    result.share = _shares(columns)
    return result


def _read_metrics(result: Result, rows: list[dict[str, str]], columns: dict[str, Points]) -> None:
    prefix = "val/" if columns.get("val/AP") else "val/segm_"
    validations = [row for row in rows if row.get(f"{prefix}AP")]
    if not validations:
        return
    tables = [{name: _number(row.get(f"{prefix}{name}")) for name in METRICS} for row in validations]
    epochs = [int(_number(row.get("epoch"))) + 1 if row.get("epoch") else k for k, row in enumerate(validations, 1)]
    result.curve = [(epoch, table["AP"]) for epoch, table in zip(epochs, tables, strict=True)]
    result.final = tables[-1]
    best = max(range(len(tables)), key=lambda k: tables[k]["AP"])  # the first one, if several
    result.best, result.best_epoch = tables[best], epochs[best]


def _shares(columns: dict[str, Points]) -> dict[str, float]:
    """The largest share of each loss term in the sum of all, over blocks of a tenth of the steps."""
    total = columns.get("loss") or []
    terms = {name: dict(points) for name, points in columns.items() if name.startswith("loss_")}
    size = max(1, math.ceil(len(total) / 10))
    blocks = [total[start : start + size] for start in range(0, len(total), size)]
    sums = [(block, math.fsum(value for _, value in block)) for block in blocks]
    return {
        name: max(math.fsum(values.get(step, 0.0) for step, _ in block) / sum_ for block, sum_ in sums if sum_ > 0)
        for name, values in terms.items()
        if any(sum_ > 0 for _, sum_ in sums)
    }


def _rows(file: Path) -> list[dict[str, str]]:
    """The rows of a metrics file, without a last line that a kill cut short."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]


def _column(rows: list[dict[str, str]], name: str) -> Points:
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


def _number(text: str | None) -> float:
    """NaN for nothing, and for -1, which stands for no value in the metrics of COCO."""
    value = float(text) if text else math.nan
    return math.nan if value < 0 else value
