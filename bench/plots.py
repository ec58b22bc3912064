"""The plots of a report: small PNG files, from one session."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from contenders import BUCKETED, COMPILED_FOCAL, FOCAL, LOOP, MATRIX, OURS, OURS_DENSE, PORTABLE
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from session import Record, Session

# rst in blues, other rankings in warm colours, pointwise losses in greys. Every line has a marker of its own.
STYLES = {
    OURS: ("#08519c", "o", "-"),
    OURS_DENSE: ("#4292c6", "s", "--"),
    "rst breakpoints (Triton)": ("#2171b5", "P", ":"),
    "rst tiled (Triton)": ("#6baed6", "X", ":"),
    PORTABLE: ("#9ecae1", "p", ":"),
    LOOP: ("#a50f15", "^", "-"),
    BUCKETED: ("#d94801", "D", "-"),
    MATRIX: ("#fd8d3c", "v", "--"),
    FOCAL: ("#252525", "h", "-"),
    COMPILED_FOCAL: ("#525252", "d", ":"),
    "binary cross-entropy": ("#737373", "<", "--"),
    "quality focal loss": ("#a6a6a6", ">", "--"),
}
OTHER = ("#31a354", "*", "-")
SIZE = (7.6, 4.2)  # inches
DOTS = 110  # to the inch
COLORS = 64


def write_plots(session: Session, folder: Path) -> dict[str, Path]:
    """Draws every plot that the session has values for; returns paths by title."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for title, draw in PLOTS.items():
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        if draw(session, axes):
            axes.set_title(title, fontsize=11)
            written[title] = folder / f"{title.lower().replace(' ', '-')}.png"
            _save(figure, written[title])
        plt.close(figure)
    return written


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of few colours, a quarter of the size: reports are kept in the repository."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=DOTS)
    Image.open(drawn).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def _lines(axes: Axes, session: Session, table: str, x: str, value: Callable[[Record], float | None]) -> bool:
    """One line for each contender; returns whether there was any."""
    for contender in session.values("contender", table=table):
        records = session.select(table=table, contender=contender)
        points = [(record.extra[x], value(record)) for record in records]
        points = [(place, height) for place, height in points if height is not None]
        if points:
            color, marker, style = STYLES.get(contender, OTHER)
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, ls=style, ms=5, lw=1.5, label=contender)
    if not axes.lines:
        return False
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major", color="#dddddd")
    axes.set_axisbelow(True)
    _legend(axes)
    return True


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5)


def _time_against_positives(session: Session, axes: Axes) -> bool:
    axes.set_xlabel("positives P (1,000,000 negatives)")
    axes.set_ylabel("forward + backward, ms")
    return _lines(axes, session, "positives", "positives", lambda record: 1e3 * record.median)


def _time_against_logits(session: Session, axes: Axes) -> bool:
    axes.set_xlabel("logits M (1,500 positives)")
    axes.set_ylabel("forward + backward, ms")
    return _lines(axes, session, "negatives", "logits", lambda record: 1e3 * record.median)


def _error(session: Session, axes: Axes) -> bool:
    axes.set_xlabel("positives P (1,000,000 negatives)")
    axes.set_ylabel("relative L1 error of the gradient")
    return _lines(axes, session, "positives", "positives", lambda record: record.error or None)


def _bandwidth(session: Session, axes: Axes) -> bool:
    axes.set_xlabel("logits M (1,500 positives)")
    axes.set_ylabel("12 bytes a logit, % of the copy bandwidth")
    share = _lines(
        axes, session, "negatives", "logits", lambda r: None if r.bandwidth_share is None else 100 * r.bandwidth_share
    )
    if share:
        axes.axhline(100, color="#555555", lw=1, ls="-.")
    return share


def _memory(session: Session, axes: Axes) -> bool:
    shapes = [shape for shape in session.values("shape") if "=" not in shape and session.peak(shape, OURS) is not None]
    for contender in session.values("contender"):
        peaks = [(session.peak(shape, contender), shape) for shape in shapes]
        points = [(max(peak, 0.1), shape) for peak, shape in peaks if peak is not None]
        if points:
            color, marker, _ = STYLES.get(contender, OTHER)
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, ls="", ms=7, alpha=0.85, label=contender)
    if not axes.lines:
        return False
    axes.axvline(16, color="#555555", lw=1, ls="-.", label="16 MiB")
    axes.set_xscale("log")
    axes.set_xlabel("peak memory beyond inputs and gradient, MiB")
    axes.invert_yaxis()
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    _legend(axes)
    return True


PLOTS: dict[str, Callable[[Session, Axes], bool]] = {
    "Time against logits": _time_against_logits,
    "Time against positives": _time_against_positives,
    "Error against the exact gradient": _error,
    "Share of the copy bandwidth": _bandwidth,
    "Peak memory": _memory,
}
