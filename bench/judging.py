"""Evaluation and the check of data in a report: their goals, and times beside the published tools."""

from collections.abc import Iterator

from goals import Goal
from session import Session, significant

OURS, PYCOCOTOOLS = "rst, AP and oLRP", "pycocotools, AP"
COCO_BOXES = "COCO boxes, 5,000 images x 100 detections"
EVALUATION, CHECK = "evaluation", "data check"  # tables


def _pycocotools_ratio(session: Session) -> Iterator[float]:
    ours, theirs = (
        session.find(table=EVALUATION, shape=COCO_BOXES, contender=contender) for contender in (OURS, PYCOCOTOOLS)
    )
    if ours and theirs:
        yield ours.median / theirs.median


def _check_seconds(session: Session) -> Iterator[float]:
    yield from (record.median for record in session.select(table=CHECK))


JUDGING_GOALS = [
    Goal(f"{COCO_BOXES}: AP and oLRP / pycocotools' AP", 1.3, "at most", "x", "any", _pycocotools_ratio),
    Goal("`rst data check` of a million annotations", 60, "at most", "s", "CPU", _check_seconds),
]


def judging_tables(session: Session) -> list[str]:
    """The goals, then a table for each data set: seconds, and the ratio to rst."""
    if not (session.select(table=EVALUATION) or session.select(table=CHECK)):
        return ["", "Not measured in this session."]
    lines = ["", "| goal | device | bound | measured |", "|---|---|---|---|"]
    lines += [goal.row(session) for goal in JUDGING_GOALS]
    for shape in session.values("shape", table=EVALUATION):
        ours = session.find(table=EVALUATION, shape=shape, contender=OURS)
        lines += ["", f"### {shape}", "", "| evaluator | s | / rst |", "|---|---|---|"]
        for record in session.select(table=EVALUATION, shape=shape):
            ratio = significant(record.median / ours.median) if ours else "–"
            once = " once" * (record.rounds == 1)
            lines.append(f"| {record.contender} | {significant(record.median)}{once} | {ratio} |")
    lines += [
        line for record in session.select(table=CHECK) for line in ("", f"`rst data check` ran on {record.shape}.")
    ]
    return lines
