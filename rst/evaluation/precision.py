"""Average precision and recall, as COCO and LVIS define them.

d  detections of one class    A  areas    T  IoU thresholds    R  recalls
L  limits on the number of detections
"""

import numpy as np

from rst.evaluation.matching import Ranked
from rst.evaluation.protocol import RECALLS

EPSILON = np.spacing(1)  # in the published tools' denominator of the precision


def precision_at_recalls(ranked: Ranked) -> np.ndarray:
    """(T, R, A) float64: the highest precision at a recall of at least RECALLS; 0 above the last recall, -1 without
    objects."""
    areas, thresholds, d = ranked.right.shape
    result = np.full((thresholds, len(RECALLS), areas), -1.0)
    for a in np.flatnonzero(ranked.objects):
        right = np.cumsum(ranked.right[a], axis=1, dtype=np.float64)  # (T, d)
        wrong = np.cumsum(ranked.wrong[a], axis=1, dtype=np.float64)
        precision = right / (wrong + right + EPSILON)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = right / ranked.objects[a]
        for t in range(thresholds):
            place = np.searchsorted(recall[t], RECALLS)
            reached = place < d
            result[t, :, a] = 0.0
            result[t, reached, a] = precision[t, place[reached]]
    return result


def recall_at_limits(ranked: Ranked, limits: tuple[int, ...]) -> np.ndarray:
    """(T, A, L) float64: the share of objects found by so many detections per image; -1 without objects."""
    areas, thresholds, _ = ranked.right.shape
    result = np.full((thresholds, areas, len(limits)), -1.0)
    for a in np.flatnonzero(ranked.objects):
        for place, limit in enumerate(limits):
            found = np.count_nonzero(ranked.right[a][:, ranked.ranks < limit], axis=1)
            result[:, a, place] = found / ranked.objects[a]
    return result
