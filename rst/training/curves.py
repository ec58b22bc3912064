"""A picture of a run: every loss term over the steps, and the COCO metrics of its validations."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rst.training.errors import ConfigError
from rst.training.loggers import METRICS_FILE, read_rows

_PANELS = (("RPN losses", "loss_rpn_"), ("RoI losses", "loss_roi_"))
_METRICS = ("val/AP", "val/AP50", "val/AP75")

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


def draw_curves(run: Path, output: Path) -> Path:
    """Draw a run's losses (raw and smoothed), learning rate and validation metrics into a PNG file.

    Args:
        run: the folder of the run, with its metrics.csv.
        output: the picture to write.

    Returns:
        `output`.
    """
    curves = read_metrics(run / METRICS_FILE)
    panels = _panels(curves)
    columns = min(3, math.ceil(len(panels) / 2))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.8 * rows), layout="constrained")  # inches
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, names) in zip(axes, panels, strict=False):
        _draw_panel(axis, title, {name: curves[name] for name in names})
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(run.resolve().name)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    return output


def _panels(curves: dict[str, Series]) -> list[tuple[str, list[str]]]:
    terms = [name for name in curves if name.startswith("loss_")]
    panels = [("Total loss", ["loss"])] if "loss" in curves else []
    for title, prefix in _PANELS:
        names = sorted(name for name in terms if name.startswith(prefix))
        terms = [name for name in terms if name not in names]
        panels += [(title, names)] if names else []
    panels += [("Other losses", sorted(terms))] if terms else []
    panels += [("Learning rate", ["lr"])] if "lr" in curves else []
    metrics = [name for name in _METRICS if name in curves]
    return panels + ([("Validation (COCO, per cent)", metrics)] if metrics else [])


def _draw_panel(axis: Axes, title: str, curves: dict[str, Series]) -> None:
    for name, (steps, values) in curves.items():
        if name.startswith("val/"):
            axis.plot(steps + 1, 100 * values, marker="o", markersize=3, label=name.removeprefix("val/"))
        elif name == "lr":
            axis.plot(steps + 1, values, label=name)
        else:
            line = axis.plot(steps + 1, smooth(values), linewidth=1.6, label=name, zorder=3)[0]
            axis.plot(steps + 1, values, color=line.get_color(), alpha=0.25, linewidth=0.6)
    axis.set_title(title)
    axis.set_xlabel("optimiser step")
    axis.grid(alpha=0.3)
    axis.set_ylim(bottom=0)
    if title != "Learning rate":
        # A few outliers in the first steps must not flatten the rest.
        shown = np.concatenate(
            [values for name, (_, values) in curves.items() if not name.startswith("val/")] or [[0.0]]
        )
        if len(shown) > 20 and (top := 1.15 * float(np.quantile(shown, 0.995))) > 0:
            axis.set_ylim(top=top)
    axis.legend(fontsize="small", framealpha=0.6)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a thirtieth of the curve (at least 5 values), shorter at the two ends."""
    half = max(2, len(values) // 60)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)
