"""A figure of a run, or of several: losses and diagnostics over the steps, and the metrics of the validations."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rst.evaluation.fonts import drawable, plot_families, plot_text
from rst.files import replacing
from rst.training.errors import ConfigError
from rst.training.heads import read_heads
from rst.training.records import METRICS_FILE, read_rows

_CORRELATION = "Spearman's correlation of score and {quality}, positives"
_NEGATIVES = "Negatives per positive"
_BALANCE = "Task balance: factor (lambda) of boxes and masks"
_GRADIENTS = "Gradient norm, before clipping"
_LOSSES, _LEARNING_RATE, _VALIDATION = "Losses", "Learning rate", "Validation (per cent)"
_STATISTICS = ((_CORRELATION, "spearman_"), (_NEGATIVES, "negatives_per_positive_"), (_BALANCE, "balance_"))
_METRICS = [f"val/{shape}{name}" for shape in ("", "segm_") for name in ("AP", "AP50", "AP75", "oLRP")]
_DASHES = ("-", "--", ":", "-.")  # of the first run, the second ...

Series = tuple[np.ndarray, np.ndarray]  # steps (n,) int64 ascending, values (n,) float64


def read_metrics(path: Path) -> dict[str, Series]:
    """The curves in a run's metrics.csv: for each name the steps and the values, one value a step.

    Where a name has several values at one step (the batches of an accumulated gradient) their mean is taken.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; is {path.parent} the folder of a run?")
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(path):
        for name, text in row.items():
            if text and name not in ("step", "epoch"):
                values[name][int(row["step"])].append(float(text))
    curves = {}
    for name, of_step in values.items():
        steps = sorted(of_step)
        curves[name] = (np.array(steps), np.array([np.mean(of_step[step]) for step in steps]))
    if not curves:
        raise ConfigError(f"{path}: holds no measurements yet")
    return curves


def draw_curves(runs: Path | Sequence[Path], output: Path) -> Path:
    """Draw losses, diagnostics (raw and smoothed), learning rate and validation metrics of runs into one PNG file.

    Args:
        runs: the folder of a run, with its metrics.csv, or several to compare: each curve then has a colour, each run
            its dashes, and only smoothed curves are drawn.
        output: the file to write.

    Returns:
        `output`.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    of_run = dict(zip(run_names(folders), (read_metrics(run / METRICS_FILE) for run in folders), strict=True))
    heads = {}
    for folder, curves in zip(folders, of_run.values(), strict=True):
        heads |= read_heads(folder, curves)
    shown = [*of_run, *heads.values()]
    with rc_context({"font.family": plot_families(drawable(text, "") for text in shown)}):
        figure = _draw_figure(of_run, {head: plot_text(title, "head") for head, title in heads.items()})
        with replacing(output) as temporary:
            figure.savefig(temporary, dpi=110)
    return output


def _draw_figure(of_run: dict[str, dict[str, Series]], heads: dict[str, str]) -> Figure:
    qualities = {"Dice" if _has_masks_alone(curves) else "IoU" for curves in of_run.values()}
    quality = " or ".join(sorted(qualities, reverse=True))
    panels = [
        (title.format(quality=quality) if title == _CORRELATION else title, names)
        for title, names in _panels(sorted({name for curves in of_run.values() for name in curves}), heads)
    ]
    columns = min(3, math.ceil(len(panels) / 2))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.8 * rows), layout="constrained")  # inches
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, names) in zip(axes, panels, strict=False):
        _draw_panel(axis, title, names, of_run, heads)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    runs = [plot_text(run, f"run {number}") for number, run in enumerate(of_run, 1)]
    if len(runs) == 1:
        figure.suptitle(*runs)
    else:
        runs_and_dashes = zip(runs, cycle(_DASHES), strict=False)
        styles: list[dict[str, Any]] = [{"label": run, "linestyle": dashes} for run, dashes in runs_and_dashes]
        lines = [Line2D([], [], color="black", **style) for style in styles]
        figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), handlelength=4)
    return figure


def _has_masks_alone(names: Iterable[str]) -> bool:
    """Whether a detector with these losses has masks and no boxes: then Dice labels its ranking."""
    ends = {name.rpartition("_")[2] for name in names if name.startswith("loss_")}
    return "mask" in ends and "bbox" not in ends


def run_names(folders: Sequence[Path]) -> list[str]:
    """What to call runs: their folders' names, and where two have the same one their paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _panels(names: list[str], heads: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Title and curves of each panel that has any, in the order of the figure."""
    by_length = sorted(heads, key=len, reverse=True)  # a loss of "roi_2" is none of "roi"
    of_head: dict[str, list[str]] = {head: [] for head in heads}
    for name in names:
        owner = next((head for head in by_length if name.startswith(f"loss_{head}_")), None)
        if owner is not None:
            of_head[owner].append(name)
    panels = [(f"{title[0].upper()}{title[1:]} losses", of_head[head]) for head, title in heads.items()]
    drawn = {name for own in of_head.values() for name in own}
    # what has no head's name: the losses of a detector with one head, and those that belong to no head
    for title, prefix in ((_LOSSES, "loss_"), *_STATISTICS):
        panels.append((title, [name for name in names if name.startswith(prefix) and name not in drawn]))
    metrics = [name for name in _METRICS if name in names]
    panels.insert(0, ("Total loss", [name for name in names if name == "loss"]))
    panels.append((_GRADIENTS, [name for name in names if name.startswith("gradient_norm")]))
    panels += [(_LEARNING_RATE, [name for name in names if name == "lr"]), (_VALIDATION, metrics)]
    return [(title, of_panel) for title, of_panel in panels if of_panel]


def _draw_panel(
    axis: Axes, title: str, names: list[str], of_run: dict[str, dict[str, Series]], heads: dict[str, str]
) -> None:
    shown, labelled = [np.zeros(0)], set()
    for curves, dashes in zip(of_run.values(), cycle(_DASHES), strict=False):
        for number, name in enumerate(names):
            if name not in curves:
                continue
            steps, values = curves[name]
            style: dict[str, Any] = {"color": f"C{number}", "linestyle": dashes}
            if name not in labelled:
                labelled.add(name)
                style["label"] = _label(name, heads)
            if title == _VALIDATION:
                axis.plot(steps + 1, 100 * values, marker="o", markersize=3, **style)
            elif title == _LEARNING_RATE:
                axis.plot(steps + 1, values, **style)
            else:
                smoothed = smooth(values)
                shown.append(values if len(of_run) == 1 else smoothed)
                axis.plot(steps + 1, smoothed, linewidth=1.6, zorder=3, **style)
                if len(of_run) == 1:
                    axis.plot(steps + 1, values, color=f"C{number}", alpha=0.25, linewidth=0.6)
    axis.set_title(title)
    axis.set_xlabel("optimiser step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    _limit(axis, names[0], np.concatenate(shown))
    axis.legend(fontsize="small", framealpha=0.6)


def _limit(axis: Axes, name: str, shown: np.ndarray) -> None:
    if name.startswith(("negatives_per_positive_", "balance_", "gradient_norm")):
        # An RPN has ten times as many negatives as a second stage. As long as the only positives of that stage are the
        # ground truth among its proposals, its box loss is almost 0 and the factor thousands of times its later value.
        axis.set_yscale("log")
    elif name.startswith("spearman_"):
        axis.axhline(0, color="black", linewidth=0.8)
        if len(shown):
            axis.set_ylim(min(-0.1, float(np.quantile(shown, 0.01)) - 0.05), 1)
    else:
        axis.set_ylim(bottom=0)
        # A few outliers in the first steps must not flatten the rest.
        if len(shown) > 20 and (top := 1.15 * float(np.quantile(shown, 0.995))) > 0:
            axis.set_ylim(top=top)


def _label(name: str, heads: dict[str, str]) -> str:
    if name.startswith("val/"):
        return name.removeprefix("val/") + " (lower is better)" * ("LRP" in name)
    return next((heads[name.removeprefix(p)] for _, p in _STATISTICS if name.removeprefix(p) in heads), name)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a thirtieth of the curve (at least 5 values), shorter at the two ends."""
    half = max(2, len(values) // 60)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)
