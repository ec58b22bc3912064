"""Evaluation and the check of data in a report: what they are held to, and their times beside the published tools'."""

from collections.abc import Iterator

from goals import Goal
from session import Session, significant

OURS, PYCOCOTOOLS = "rst, AP and oLRP", "pycocotools, AP"
COCO_BOXES = "COCO boxes, 5,000 pictures x 100 detections"
EVALUATION, CHECK = "evaluation", "data check"  # tables


def _in_pycocotools(session: Session) -> Iterator[float]:
    ours, theirs = (
        session.find(table=EVALUATION, shape=COCO_BOXES, contender=contender) for contender in (OURS, PYCOCOTOOLS)
    )
    if ours and theirs:
        yield ours.median / theirs.median


def _check_seconds(session: Session) -> Iterator[float]:
    yield from (record.median for record in session.select(table=CHECK))


JUDGING_GOALS = [
    Goal(f"{COCO_BOXES}: AP and oLRP / pycocotools' AP", 1.3, "at most", "x", "any", _in_pycocotools),
    Goal("`rst data check` of a million annotations", 60, "at most", "s", "CPU", _check_seconds),
]


def judging_tables(session: Session) -> list[str]:
    """The goals; then a table for each set, in seconds and in the time of ours; nothing where nothing was measured."""
    if not (session.select(table=EVALUATION) or session.select(table=CHECK)):
        return ["", "Not measured in this session."]
    lines = ["", "| figure | on | bound | measured |", "|---|---|---|---|"]
    lines += [goal.row(session) for goal in JUDGING_GOALS]
    for shape in session.values("shape", table=EVALUATION):
        ours = session.find(table=EVALUATION, shape=shape, contender=OURS)
        lines += ["", f"### {shape}", "", "| evaluator | s | in ours |", "|---|---|---|"]
        for record in session.select(table=EVALUATION, shape=shape):
            ratio = significant(record.median / ours.median) if ours else "–"
            once = " once" * (record.rounds == 1)
            lines.append(f"| {record.contender} | {significant(record.median)}{once} | {ratio} |")
    lines += [line for record in session.select(table=CHECK) for line in ("", f"The check was of {record.shape}.")]
    return lines
