"""Curves of an evaluation: precision against recall, and the LRP error against the score threshold.

C  classes    T  IoU thresholds    R  recalls
"""

from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rst.evaluation.evaluator import Evaluation
from rst.evaluation.fonts import drawable_name, plot_families, plot_name
from rst.evaluation.lrp import GRID, on_grid
from rst.evaluation.protocol import IOU_THRESHOLDS, RECALLS
from rst.evaluation.report import SHAPES, format_threshold

MOST_NAMED = 10  # classes that a legend names; more are thin lines
SIZE = (6.4, 4.8)  # inches, of a panel
LEAST_SPAN = 5.0  # per cent, of the axis of LRP errors
NAMED = colormaps["tab10"].colors  # type: ignore[attr-defined]


def draw_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw precision_recall.png and olrp.png.

    Args:
        evaluation: with ground truth of at least one class; without, nothing is drawn.
        folder: is made if need be.

    Returns:
        the files.
    """
    classes = [k for k, entry in enumerate(evaluation.classes) if entry["objects"]]
    if not classes:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    names = (drawable_name(evaluation.classes[k]["name"], k) for k in classes)
    with rc_context({"font.family": plot_families(names)}):
        return _draw_figures(evaluation, classes, folder)


def _draw_figures(evaluation: Evaluation, classes: list[int], folder: Path) -> list[Path]:
    kind = SHAPES[evaluation.truth.iou_type]
    panels = 1 if len(classes) == 1 else 2
    figure = Figure(figsize=(panels * SIZE[0], SIZE[1]), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_precision(axes[0], evaluation, classes)
    name = plot_name(evaluation.classes[classes[0]]["name"], classes[0])
    of = name if panels == 1 else f"mean of {len(classes)} classes"
    axes[0].set_title(f"Precision of {kind}: {of}")
    if panels > 1:
        _draw_classes(axes[1], evaluation, classes)
        axes[1].set_title(f"By class, at an IoU of {IOU_THRESHOLDS[0]:.2f}")
    for axis in axes:
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    precision_recall = folder / "precision_recall.png"
    figure.savefig(precision_recall, dpi=120)

    figure = Figure(figsize=(1.4 * SIZE[0], 1.2 * SIZE[1]), layout="constrained")
    axis = figure.subplots()
    _draw_lrp(axis, evaluation, classes)
    axis.set_title(f"LRP error of {kind}: the lowest point of a curve is its oLRP")
    least = 100 * min(evaluation.curves[k].errors.min(initial=1) for k in classes)
    span = max(100 - least, LEAST_SPAN)
    limits = (100 - 1.05 * span, 100 + 0.05 * span)  # an error is never above 100 %
    axis.set(xlabel="score threshold", ylabel="LRP error in per cent", xlim=(0, 1), ylim=limits)
    axis.grid(alpha=0.3)
    olrp = folder / "olrp.png"
    figure.savefig(olrp, dpi=120)
    return [precision_recall, olrp]


def _draw_precision(axis: Axes, evaluation: Evaluation, classes: list[int]) -> None:
    mean = evaluation.precision[:, :, classes, 0].mean(2)  # (T, R)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        colour = colormaps["viridis"](t / len(IOU_THRESHOLDS))
        label = f"IoU {threshold:.2f}: AP {100 * mean[t].mean():.1f}"
        axis.plot(RECALLS, mean[t], color=colour, linewidth=1.2, label=label)
    label = f"mean: AP {100 * mean.mean():.1f}"
    axis.plot(RECALLS, mean.mean(0), color="black", linewidth=2, label=label)
    axis.legend(fontsize="small")


def _draw_classes(axis: Axes, evaluation: Evaluation, classes: list[int]) -> None:
    at_half = evaluation.precision[0, :, :, 0]  # (R, C)
    named = len(classes) <= MOST_NAMED
    for place, k in enumerate(classes):
        entry = evaluation.classes[k]
        name = plot_name(entry["name"], k)
        label = f"{name}: AP50 {100 * entry['AP50']:.1f}" if named else None if place else "one class"
        axis.plot(RECALLS, at_half[:, k], **_style(place, named), label=label)
    mean = at_half[:, classes].mean(1)
    label = f"mean of {len(classes)} classes: AP50 {100 * mean.mean():.1f}"
    axis.plot(RECALLS, mean, color="black", linewidth=2, label=label)
    _add_legend(axis)


def _draw_lrp(axis: Axes, evaluation: Evaluation, classes: list[int]) -> None:
    named = len(classes) <= MOST_NAMED
    for place, k in enumerate(classes):
        entry, style = evaluation.classes[k], _style(place, named)
        best = "no true positive"
        if entry["threshold"] is not None:
            best = f"oLRP {100 * entry['oLRP']:.1f} at {format_threshold(entry['threshold'])}"
            axis.plot(entry["threshold"], 100 * entry["oLRP"], "o", color=style["color"], alpha=style["alpha"])
        label = f"{plot_name(entry['name'], k)}: {best}" if named else None if place else "one class, and its oLRP"
        axis.plot(GRID, 100 * on_grid(evaluation.curves[k]), **style, label=label)
    if len(classes) > 1 and evaluation.threshold is not None:
        best = 100 * evaluation.mean_error.min()
        label = (
            f"mean of {len(classes)} classes: {best:.1f} at {format_threshold(evaluation.threshold)} for all of them"
        )
        axis.plot(GRID, 100 * evaluation.mean_error, color="black", linewidth=2, label=label)
        axis.plot(evaluation.threshold, best, "o", color="black")
    _add_legend(axis)


def _add_legend(axis: Axes) -> None:
    """A legend with visible lines: those of many classes are thin and faint."""
    for line in axis.legend(fontsize="small").get_lines():
        line.set(linewidth=max(line.get_linewidth(), 1.0), alpha=1.0)


def _style(place: int, named: bool) -> dict[str, Any]:
    return {
        "color": NAMED[place] if named else "tab:blue",
        "linewidth": 1.2 if named else 0.5,
        "alpha": 1.0 if named else 0.25,
    }
