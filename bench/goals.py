"""The goals of the kernels and of a training step, each with what one session measured.

`tests/bench/test_goals.py` runs every goal on a session in which everything is measured: a goal whose shape, contender
or setting was renamed fails there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf, isnan
from typing import Literal

from contenders import BUCKETED, COMPILED_FOCAL, FOCAL, GRAPH, LOOP, OURS
from segments import ALONE, ONE, RANKINGS, segment_ratios
from session import Record, Session, significant
from shapes import ATSS, DETR, LVIS_RCNN, MILLION, RPN, TWENTY_MILLION

RS_STEP, RS_ATSS_STEP = "RS Faster R-CNN", "RS-ATSS"
# How the names of these settings begin, with and without autocast
R50, ATSS_R50, ATSS_DEMO = "R50-FPN, 4 images of 1333 x 800", "ATSS, R50-FPN", "ATSS, demo"
DEVICES = {"GPU": "GPU", "CPU": "2 CPU cores", "any": "any"}


@dataclass(frozen=True)
class Goal:
    """A bound on a measured value. `values` reads it from a session, by stage or shape; the worst one decides."""

    title: str
    bound: float
    side: Literal["at least", "at most"]
    unit: Literal["x", "%", "MiB", "s", "ms", "error", ""]
    device: Literal["GPU", "CPU", "any"]
    values: Callable[[Session], Iterable[float]]

    def row(self, session: Session) -> str:
        """One line of the table."""
        bound = f"{100 * self.bound if self.unit == '%' else self.bound:g} {self.unit.replace('error', '')}".strip()
        return f"| {self.title} | {DEVICES[self.device]} | {self.side} {bound} | {self._measured(session)} |"

    def _measured(self, session: Session) -> str:
        values = list(self.values(session))
        here = "GPU" if session.on_gpu else "CPU"
        if self.device not in ("any", here):
            return f"not measured: needs a {self.device}" + (
                f" (on this {here}: {self._range(values)})" if values else ""
            )
        if not values:
            return "not measured in this session"
        reached = min(values) >= self.bound if self.side == "at least" else max(values) <= self.bound
        return f"{self._range(values)}: {'reached' if reached else '**missed**'}"

    def _range(self, values: list[float]) -> str:
        low, high = self._number(min(values)), self._number(max(values))
        return high if min(values) == max(values) else f"{low.removesuffix(self.unit).rstrip()} to {high}"

    def _number(self, value: float) -> str:
        if self.unit == "error":
            return f"{value:.1e}"
        if self.unit == "":
            return f"{value:g}"
        return f"{significant(100 * value if self.unit == '%' else value)} {self.unit}"


def _ratios(session: Session, shape: str, over: str, under: str, stage: str | None = None) -> list[float]:
    """The time of contender `over` divided by the time of `under`, for every stage or for one."""
    found = []
    for record in session.select(table="head", shape=shape, contender=over):
        other = session.find(table="head", shape=shape, stage=record.stage, contender=under)
        if other and stage in (None, record.stage):
            found.append(record.median / other.median)
    return found


def _bandwidth_shares(session: Session) -> list[float]:
    return [record.bandwidth_share for record in session.select(table="head", shape=ATSS, contender=OURS)]


def _times(session: Session, shape: str, contender: str) -> list[float]:
    """Milliseconds, by stage."""
    return [1e3 * record.median for record in session.select(table="head", shape=shape, contender=contender)]


def _host_times(session: Session, shape: str, contender: str) -> list[float]:
    """Milliseconds until the last launch is queued, by stage."""
    records = session.select(table="head", shape=shape, contender=contender)
    return [1e3 * record.host for record in records if record.host is not None]


def _replays(session: Session) -> list[float]:
    """Milliseconds of a replay at the RPN's size, on the device and on the host: neither may be longer."""
    return [*_times(session, RPN, GRAPH), *_host_times(session, RPN, GRAPH)]


def _peaks(session: Session) -> list[float]:
    peaks = [session.peak(shape, OURS) for shape in session.values("shape", contender=OURS)]
    return [peak for peak in peaks if peak is not None]


def _errors(session: Session) -> list[float]:
    cases = [record.extra for record in session.select(kind="exact") if record.error is not None]
    errors = [(case["error"], case["value_error"]) for case in [*cases, *session.facts["refused"]]]
    return [inf if any(map(isnan, pair)) else max(pair) for pair in errors]


def _outcomes(session: Session) -> list[float]:
    seen = session.facts.get("determinism")
    return [seen["different"]] if seen else []


def _steps(session: Session, contender: str, setting: str) -> list[Record]:
    """The steps of a contender in the settings whose names begin with `setting`."""
    steps = session.select(table="step", contender=contender)
    return [record for record in steps if record.setting.startswith(setting)]


def _loss_shares(session: Session, contender: str, setting: str) -> list[float]:
    return [record.loss_share for record in _steps(session, contender, setting)]


def _step_ratios(session: Session, contender: str, setting: str, figure: str = "median") -> list[float]:
    """A figure of a step ("median" or "peak_mib") divided by the same figure of its baseline's step."""
    found = []
    for record in _steps(session, contender, setting):
        other = session.find(table="step", setting=record.setting, contender=record.baseline)
        if other and getattr(other, figure) is not None:
            found.append(getattr(record, figure) / getattr(other, figure))
    return found


def _ratio(
    title: str, bound: float, side: Literal["at least", "at most"], device: Literal["GPU", "CPU"], *pairs
) -> Goal:
    """A goal for `_ratios`; each of `pairs` is its arguments after the session."""
    return Goal(title, bound, side, "x", device, lambda s: [ratio for pair in pairs for ratio in _ratios(s, *pair)])


GOALS = [
    _ratio(f"{RPN}: {LOOP} / rst", 50, "at least", "GPU", (RPN, LOOP, OURS)),
    _ratio(f"{ATSS}, initialisation: {LOOP} / rst", 500, "at least", "GPU", (ATSS, LOOP, OURS, "initialisation")),
    _ratio(f"{ATSS}: {BUCKETED} / rst", 50, "at least", "GPU", (ATSS, BUCKETED, OURS)),
    _ratio(f"{LVIS_RCNN}: rst / {FOCAL}", 1, "at most", "GPU", (LVIS_RCNN, OURS, FOCAL)),
    _ratio(f"{ATSS}: rst / {FOCAL}", 0.1, "at most", "GPU", (ATSS, OURS, FOCAL)),
    _ratio(f"{ATSS}: rst / {COMPILED_FOCAL}", 1, "at most", "GPU", (ATSS, OURS, COMPILED_FOCAL)),
    Goal(f"{ATSS}: share of the copy bandwidth", 0.6, "at least", "%", "GPU", _bandwidth_shares),
    Goal(
        f"{RPN}: host time, eager",
        0.25,
        "at most",
        "ms",
        "GPU",
        partial(_host_times, shape=RPN, contender=OURS),
    ),
    Goal(f"{RPN}: replay of a CUDA graph, device and host", 0.05, "at most", "ms", "GPU", _replays),
    Goal(
        f"DETR, {RANKINGS} rankings: one call / {ONE}",
        2,
        "at most",
        "x",
        "GPU",
        partial(segment_ratios, under=ONE),
    ),
    Goal("every shape: peak memory beyond inputs and gradient", 16, "at most", "MiB", "any", _peaks),
    *(
        goal
        for name, contender, setting, device, share, ratio, baseline in (
            ("RS Faster R-CNN R50", RS_STEP, R50, "GPU", 0.01, 1.15, "sampled cross-entropy"),
            ("RS-ATSS R50", RS_ATSS_STEP, ATSS_R50, "GPU", 0.01, 1.02, "focal loss"),
            ("RS-ATSS demo", RS_ATSS_STEP, ATSS_DEMO, "CPU", 0.05, 1.10, "focal loss"),
        )
        for goal in (
            Goal(
                f"{name} step: time in the ranking losses",
                share,
                "at most",
                "%",
                device,
                partial(_loss_shares, contender=contender, setting=setting),
            ),
            Goal(
                f"{name} step: time / step with {baseline}",
                ratio,
                "at most",
                "x",
                device,
                partial(_step_ratios, contender=contender, setting=setting),
            ),
        )
    ),
    Goal(
        "RS-ATSS R50 step: peak memory / step with focal loss",
        1.0,
        "at most",
        "x",
        "GPU",
        partial(_step_ratios, contender=RS_ATSS_STEP, setting=ATSS_R50, figure="peak_mib"),
    ),
    _ratio(f"{MILLION}: {BUCKETED} / rst", 4, "at least", "CPU", (MILLION, BUCKETED, OURS)),
    _ratio(f"{MILLION}: rst / {FOCAL}", 1.5, "at most", "CPU", (MILLION, OURS, FOCAL)),
    Goal(
        f"{DETR}: time, of which most is fixed", 3, "at most", "ms", "CPU", partial(_times, shape=DETR, contender=OURS)
    ),
    Goal(
        f"DETR, {RANKINGS} rankings: one call / {RANKINGS} calls",
        0.5,
        "at most",
        "x",
        "CPU",
        partial(segment_ratios, under=ALONE),
    ),
    _ratio(
        f"{TWENTY_MILLION} and {ATSS}: rst / {FOCAL}",
        3,
        "at most",
        "CPU",
        (TWENTY_MILLION, OURS, FOCAL),
        (ATSS, OURS, FOCAL),
    ),
    Goal("gradient error of every exact contender (relative, L1)", 1e-5, "at most", "error", "any", _errors),
    Goal("distinct outcomes in 100 repeats", 1, "at most", "", "any", _outcomes),
]


def goals_table(session: Session) -> list[str]:
    """One row for each goal; below it, the error of the approximate contender."""
    lines = ["| goal | device | bound | measured |", "|---|---|---|---|", *(goal.row(session) for goal in GOALS)]
    bucketed = [record.error for record in session.select(contender=BUCKETED) if record.error is not None]
    if bucketed:
        lines += [
            "",
            f"Gradient error of the {BUCKETED} loss, which is approximate: {min(bucketed):.1e} to {max(bucketed):.1e}.",
        ]
    return lines
