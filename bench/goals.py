"""What must be seen: the figures that the kernels are held to, each with what one session measured of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf, isnan
from typing import Literal

from session import Session, significant

OURS, LOOP, BUCKETED, FOCAL = "rst, sparse targets", "per-positive loop", "bucketed", "sigmoid focal loss"
RS_STEP, RS_ATSS_STEP = "RS Faster R-CNN", "RS-ATSS"
ATSS, LVIS, RPN = "ATSS / PAA", "LVIS R-CNN", "RPN, all anchors"
R50, ATSS_R50, ATSS_DEMO = "R50-FPN, 4 images of 1333 x 800", "ATSS, R50-FPN", "ATSS, demo"


@dataclass(frozen=True)
class Goal:
    """A bound on a figure. `figures` finds its values in a session, by stage or shape; the worst one counts."""

    what: str
    bound: float
    side: Literal["at least", "at most"]
    unit: str
    device: Literal["GPU", "CPU", "any"]
    figures: Callable[[Session], Iterable[float]]

    def row(self, session: Session) -> str:
        """One line of the table."""
        values = list(self.figures(session))
        foreign = self.device != "any" and (self.device == "GPU") != session.on_gpu
        if not values:
            measured = f"not measured: needs a {self.device}" if foreign else "not measured in this session"
        else:
            low, high = min(values), max(values)
            span = (
                self._said(low)
                if low == high
                else f"{self._said(low).removesuffix(self.unit).rstrip()} to {self._said(high)}"
            )
            reached = low >= self.bound if self.side == "at least" else high <= self.bound
            measured = f"{span}: {'reached' if reached else '**missed**'}"
            if foreign:
                measured = (
                    f"not measured: needs a {self.device} (here, on a {'GPU' if session.on_gpu else 'CPU'}: {span})"
                )
        bound = f"{100 * self.bound if self.unit == '%' else self.bound:g} {self.unit.replace('error', '')}".strip()
        device = {"GPU": "GPU (an H200)", "CPU": "2 CPU cores", "any": "any"}[self.device]
        return f"| {self.what} | {device} | {self.side} {bound} | {measured} |"

    def _said(self, value: float) -> str:
        if self.unit == "%":
            return f"{significant(100 * value)} %"
        if self.unit == "error":
            return f"{value:.1e}"
        return f"{significant(value)} {self.unit}".strip()


def _ratios(session: Session, shape: str, over: str, under: str, *stages: str) -> list[float]:
    """Medians of `over` in those of `under`, stage by stage; of all stages if none is named."""
    found = []
    for record in session.select(table="head", shape=shape, contender=over):
        if not stages or record.stage in stages:
            other = session.find(table="head", shape=shape, stage=record.stage, contender=under)
            found += [record.median / other.median] if other else []
    return found


def _shares(session: Session) -> list[float]:
    return [record.bandwidth_share for record in session.select(table="head", shape=ATSS, contender=OURS)]


def _peaks(session: Session) -> list[float]:
    peaks = [session.peak(shape, OURS) for shape in session.values("shape", contender=OURS)]
    return [peak for peak in peaks if peak is not None]


def _errors(session: Session) -> list[float]:
    cases = [record.extra for record in session.select(kind="exact") if record.error is not None]
    errors = [(case["error"], case["value_error"]) for case in [*cases, *session.facts["refused"]]]
    return [inf if any(map(isnan, pair)) else max(pair) for pair in errors]


def _loss_shares(session: Session, contender: str, setting: str) -> list[float]:
    steps = session.select(table="step", contender=contender)
    return [record.loss_share for record in steps if record.setting.startswith(setting)]


def _steps(session: Session, contender: str, setting: str, figure: str = "median") -> list[float]:
    """A figure of the steps in that of their twins', in every setting whose name begins so."""
    found = []
    for record in session.select(table="step", contender=contender):
        other = session.find(table="step", setting=record.setting, contender=record.twin)
        if other and record.setting.startswith(setting) and getattr(other, figure) is not None:
            found.append(getattr(record, figure) / getattr(other, figure))
    return found


def _different(session: Session) -> list[float]:
    seen = session.facts.get("determinism")
    return [seen["different"]] if seen else []


GOALS = [
    Goal(f"{RPN}: time of the {LOOP} / ours", 50, "at least", "x", "GPU", lambda s: _ratios(s, RPN, LOOP, OURS)),
    Goal(
        f"{ATSS}, initialisation: {LOOP} / ours",
        500,
        "at least",
        "x",
        "GPU",
        lambda s: _ratios(s, ATSS, LOOP, OURS, "initialisation"),
    ),
    Goal(f"{ATSS}: {BUCKETED} / ours", 50, "at least", "x", "GPU", lambda s: _ratios(s, ATSS, BUCKETED, OURS)),
    Goal(
        f"{ATSS} and {LVIS}: ours / {FOCAL}",
        1,
        "at most",
        "x",
        "GPU",
        lambda s: _ratios(s, ATSS, OURS, FOCAL) + _ratios(s, LVIS, OURS, FOCAL),
    ),
    Goal(f"{ATSS}: 12 bytes a logit at the copy bandwidth", 0.5, "at least", "%", "GPU", _shares),
    Goal("every shape: peak memory beyond inputs and gradient", 16, "at most", "MiB", "GPU", _peaks),
    Goal(
        "R50 step: share of its ranking losses",
        0.02,
        "at most",
        "%",
        "GPU",
        lambda s: _loss_shares(s, RS_STEP, R50),
    ),
    Goal(
        "R50 step / step of the sampled cross-entropy twin",
        1.15,
        "at most",
        "x",
        "GPU",
        lambda s: _steps(s, RS_STEP, R50),
    ),
    *(
        Goal(f"{name} step: {what}", bound, "at most", unit, device, figures)
        for name, setting, device, share, ratio in (
            ("RS-ATSS R50", ATSS_R50, "GPU", 0.02, 1.02),
            ("RS-ATSS demo", ATSS_DEMO, "CPU", 0.05, 1.10),
        )
        for what, bound, unit, figures in (
            ("share of its ranking loss", share, "%", partial(_loss_shares, contender=RS_ATSS_STEP, setting=setting)),
            ("in steps of focal loss", ratio, "x", partial(_steps, contender=RS_ATSS_STEP, setting=setting)),
        )
    ),
    Goal(
        "RS-ATSS R50 step: peak memory in that of focal loss",
        1.0,
        "at most",
        "x",
        "GPU",
        lambda s: _steps(s, RS_ATSS_STEP, ATSS_R50, "peak_mib"),
    ),
    Goal(
        f"P 2,000, N 1 M: {BUCKETED} / portable",
        3,
        "at least",
        "x",
        "CPU",
        lambda s: _ratios(s, "P 2,000, N 1 M", BUCKETED, OURS),
    ),
    Goal(
        f"N 20 M: portable / {FOCAL}",
        3,
        "at most",
        "x",
        "CPU",
        lambda s: _ratios(s, "P 2,000, N 20 M", OURS, FOCAL) + _ratios(s, ATSS, OURS, FOCAL),
    ),
    Goal(
        "every exact contender, every shape: relative L1 error of the gradient",
        1e-5,
        "at most",
        "error",
        "any",
        _errors,
    ),
    Goal("100 repeats: different outcomes, to the last bit", 1, "at most", "", "any", _different),
]


def goals_table(session: Session) -> list[str]:
    """Every goal with its figure; a range is over stages, shapes or precisions, and its worst end decides."""
    lines = ["| figure | on | bound | measured |", "|---|---|---|---|", *(goal.row(session) for goal in GOALS)]
    bucketed = [record.error for record in session.select(contender=BUCKETED) if record.error is not None]
    if bucketed:
        lines += ["", f"Error of the {BUCKETED} gradient beside it: {min(bucketed):.1e} to {max(bucketed):.1e}."]
    return lines
