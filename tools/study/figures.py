"""The figures of a study: AP over the epochs, and the AP of every seed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .results import Result

DOTS = 110  # to the inch
COLUMNS = 3  # panels side by side


def draw_curves(groups: Mapping[str, Sequence[Result]], file: Path) -> None:
    """AP by epoch, a panel for each point of the grid: thin lines are seeds, thick ones the means of a variant.

    Points and variants without any validated run are left out.

    Args:
        groups: see `grouped`; some run of it has been validated.
        file: a PNG.
    """
    colours, groups = _colours(groups), _validated(groups)
    points = list(dict.fromkeys(_point(group[0]) for group in groups.values()))
    columns = min(COLUMNS, len(points))
    rows = math.ceil(len(points) / columns)
    size = (1 + 3.6 * columns, 0.8 + 2.9 * rows) if columns > 1 else (8.0, 5.0)  # inches
    figure = Figure(figsize=size, dpi=DOTS, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, point in zip(axes, points, strict=False):
        for group in groups.values():
            if _point(group[0]) == point:
                _draw_group(axis, group, colours[group[0].run.variant])
        axis.set_title(point, fontsize=10)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[len(points) :]:
        axis.set_axis_off()
    axes[0].set_ylim(bottom=-0.02 * axes[0].get_ylim()[1])  # a run at 0 is seen
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("AP (per cent)", fontsize=10)
    shown = dict.fromkeys(group[0].run.variant for group in groups.values())
    lines = [Line2D([], [], color=colours[variant], lw=2.5, label=variant) for variant in shown]
    lines += [
        Line2D([], [], color="black", lw=0.8, label="one seed"),
        Line2D([], [], color="black", lw=2.5, label="mean"),
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=3 * min(2, columns), fontsize=9, frameon=False)
    _save(figure, file)


def draw_spread(groups: Mapping[str, Sequence[Result]], file: Path) -> None:
    """AP after the last epoch: a row for each group, a dot for each seed (a cross: collapsed), a bar for the mean.

    Groups without any validated run are left out.
    """
    colours, groups = _colours(groups), _validated(groups)
    figure = Figure(figsize=(8, 1.0 + 0.42 * len(groups)), dpi=DOTS, layout="constrained")
    axis = figure.subplots()
    for row, group in enumerate(groups.values()):
        colour = colours[group[0].run.variant]
        for k, result in enumerate(result for result in group if result.ended and result.curve):
            height = row + 0.07 * (k - (len(group) - 1) / 2)  # equal values stay apart
            style: dict[str, Any] = {"marker": "x", "ms": 8, "mew": 2} if result.collapse else {"marker": "o", "ms": 6}
            axis.plot(100 * result.final["AP"], height, color=colour, alpha=0.75, zorder=3, **style)
        done = [100 * result.final["AP"] for result in group if result.status == "done" and result.curve]
        if done:
            axis.vlines(sum(done) / len(done), row - 0.3, row + 0.3, color=colour, lw=2.5)
    axis.set_yticks(range(len(groups)), list(groups), fontsize=9)
    axis.set(xlabel="AP after the last epoch (per cent)", ylim=(len(groups) - 0.4, -0.6))
    axis.grid(alpha=0.3, axis="x")
    grey: dict[str, Any] = {"color": "grey", "ls": ""}
    lines = [Line2D([], [], marker="o", label="one seed", **grey), Line2D([], [], marker="|", label="mean", **grey)]
    lines[1].set(markersize=12, markeredgewidth=2.5)
    lines.append(Line2D([], [], marker="x", mew=2, label="collapsed", **grey))
    figure.legend(handles=lines, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    _save(figure, file)


def _draw_group(axis: Axes, group: Sequence[Result], colour: Any) -> None:
    by_epoch: dict[int, list[float]] = {}
    some_done = any(result.status == "done" for result in group)
    for result in group:
        points = [(epoch, 100 * ap) for epoch, ap in result.curve if not math.isnan(ap)]
        axis.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, lw=0.8, alpha=0.6)
        # as in the table; a mean of other seeds in each epoch would jump
        for epoch, ap in points if result.status == "done" or not some_done else []:
            by_epoch.setdefault(epoch, []).append(ap)
    most = max(map(len, by_epoch.values()), default=0)
    means = [(epoch, sum(values) / most) for epoch, values in sorted(by_epoch.items()) if len(values) == most]
    marker = "o" if len(means) == 1 else ""
    axis.plot(*zip(*means, strict=True) if means else ((), ()), color=colour, lw=2.5, marker=marker)


def _validated(groups: Mapping[str, Sequence[Result]]) -> dict[str, Sequence[Result]]:
    return {name: group for name, group in groups.items() if any(result.curve for result in group)}


def _point(result: Result) -> str:
    return result.run.group.removeprefix(result.run.variant).strip()


def _colours(groups: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """One for each variant."""
    wheel = matplotlib.colormaps["tab10"]
    variants = dict.fromkeys(group[0].run.variant for group in groups.values())
    return {variant: wheel(k % 10) for k, variant in enumerate(variants)}


def _save(figure: Figure, file: Path) -> None:
    temporary = file.with_name(f".{file.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(file)
