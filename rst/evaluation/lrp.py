"""The LRP error, and oLRP: its least value over all score thresholds (paper, section 5; Oksuz et al., TPAMI 2021).

Keep the detections from some score up: TP are right, FP are wrong, FN objects are missed, and IoU is the overlap of a
right one. Then

    LRP = (sum of (1 - IoU) / (1 - .5)  +  FP  +  FN) / (TP + FP + FN)

with the matches of average precision at an IoU of .5. The score with the least error is the threshold to use: a ranking
loss trains scores to say which of two detections is better, not how good either is.

    d  detections of one class    C  classes    A  areas
"""

from typing import NamedTuple

import numpy as np

from rst.evaluation.matching import Ranked
from rst.evaluation.protocol import IOU_THRESHOLDS

GRID = np.arange(1001) / 1000  # scores at which classes are averaged


class LrpCurve(NamedTuple):
    """LRP error of one class when the detections from a score up are kept."""

    scores: np.ndarray  # (d,) float64, descending
    errors: np.ndarray  # (d,) float64 in [0, 1]


class Lrp(NamedTuple):
    """oLRP, its parts, and the score of the least error; NaN: the part has no meaning, -1: a class without objects."""

    error: np.ndarray  # (A,) float64: oLRP
    localisation: np.ndarray  # (A,) mean 1 - IoU of the true positives
    false_positive: np.ndarray  # (A,) false positives among the detections
    false_negative: np.ndarray  # (A,) objects missed
    threshold: np.ndarray  # (A,) score


def optimal_lrp(ranked: Ranked) -> tuple[Lrp, LrpCurve]:
    """oLRP of one class in every range of size, and its curve over all sizes."""
    areas = len(ranked.objects)
    result = Lrp(*(np.full(areas, -1.0) for _ in Lrp._fields))
    curve = LrpCurve(np.zeros(0), np.zeros(0))
    for a in np.flatnonzero(ranked.objects):
        right, wrong = ranked.right[a, 0], ranked.wrong[a, 0]
        tp, fp = np.cumsum(right), np.cumsum(wrong)
        missed = ranked.objects[a] - tp
        distance = tp - np.cumsum(np.where(right, ranked.iou[a], 0.0))  # sum of 1 - IoU
        errors = (distance / (1 - IOU_THRESHOLDS[0]) + fp + missed) / (tp + fp + missed)
        if a == 0:
            curve = LrpCurve(ranked.scores, errors)
        if not right.any():
            values = (1.0, np.nan, np.nan, 1.0, np.nan)
        else:
            k = int(np.argmin(errors))
            # The best threshold may keep no true positive, or no detection
            with np.errstate(invalid="ignore"):
                values = (
                    errors[k],
                    distance[k] / tp[k],
                    fp[k] / (tp[k] + fp[k]),
                    missed[k] / ranked.objects[a],
                    ranked.scores[k],
                )
        for field, value in zip(result, values, strict=True):
            field[a] = value
    return result, curve


def on_grid(curve: LrpCurve) -> np.ndarray:
    """(len(GRID),) float64: LRP error when the detections with a score of at least GRID are kept; 1 with none."""
    kept = np.searchsorted(-curve.scores, -GRID, side="right")
    return np.append(1.0, curve.errors)[kept]
