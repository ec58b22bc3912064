"""Detections matched to objects, once, for average precision and for oLRP.

A group is one image and one class. Its detections choose in the order of their scores: each takes the free object with
which it has the largest IoU. All groups, ten IoU thresholds and four ranges of size are done at once: in round r the
r-th detection of every group chooses. Only the few detections with an IoU of at least .5 with some object take part,
and nothing is stored for a group without any: the cost depends on the detections, not on COCO's 5,000 images x 80
classes or LVIS's 20,000 x 1,203. The IoUs are pycocotools'. Its own matching takes minutes;
faster-coco-eval mixes the matches of all ranges of size, and oLRP would have to match again.

    D  detections    G  objects    P  pairs of a detection and an object with an IoU of at least .5
    A  areas    T  IoU thresholds    C  classes    d  detections of one class
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from rst.evaluation.detections import Detections
from rst.evaluation.protocol import AREAS, IOU_THRESHOLDS
from rst.evaluation.truth import GroundTruth

# At a threshold of 1, an IoU of 1 matches in spite of rounding
LEAST_IOUS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)


class Matches(NamedTuple):
    """The result for each detection, in every range of size and at every threshold."""

    found: np.ndarray  # (A, T, D) bool: matched an object, ignored objects included
    ignored: np.ndarray  # (A, T, D) bool: neither right nor wrong
    iou: np.ndarray  # (A, D) float64: IoU with the object matched at the threshold .5, 0 without one
    missing: np.ndarray  # (A, G) bool: objects that are ignored, as crowds or for their size


class Pairs(NamedTuple):
    """Pairs of a detection and an object that may match, by detection, the larger IoU last."""

    detection: np.ndarray  # (P,) int64
    object: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64
    turn: np.ndarray  # (P,) int64: how many candidates of the group choose before the detection; ascending


class Ranked(NamedTuple):
    """The detections of one class, over all images, from the highest score down."""

    scores: np.ndarray  # (d,) float64
    ranks: np.ndarray  # (d,) int64 place in the image
    right: np.ndarray  # (A, T, d) bool: true positives
    wrong: np.ndarray  # (A, T, d) bool: false positives
    iou: np.ndarray  # (A, d) float64 at the threshold .5
    objects: np.ndarray  # (A,) int64: objects to find


def match(truth: GroundTruth, detections: Detections) -> Matches:
    """Match greedily, as the published tools do."""
    a, t, d = len(AREAS), len(LEAST_IOUS), len(detections.scores)
    missing = truth.ignored | _outside(truth.areas)
    found, ignored = np.zeros((a, t, d), bool), np.zeros((a, t, d), bool)
    iou = np.zeros((a, d))
    taken = np.zeros((len(truth.areas), a, t), bool)
    pairs = _candidates(truth, detections)
    turns = np.append(np.flatnonzero(np.diff(pairs.turn, prepend=-1)), len(pairs.turn))
    for start, stop in itertools.pairwise(turns.tolist()):
        detection, objects, ious = (values[start:stop] for values in pairs[:3])
        unwanted = missing.T[objects]  # (p, A)
        free = ~taken[objects] | truth.crowd[objects, None, None]  # (p, A, T)
        free &= (ious[:, None] >= LEAST_IOUS)[:, None]
        # The best is the last; one that is not ignored beats all that are.
        worth = np.arange(1, stop - start + 1)[:, None] + np.where(unwanted, 0, stop - start)  # (p, A)
        first = np.flatnonzero(np.diff(detection, prepend=-1))
        best = np.maximum.reduceat(np.where(free, worth[:, :, None], 0), first)  # (detections of the turn, A, T)
        row, area, threshold = np.nonzero(best)
        pair = (best[row, area, threshold] - 1) % (stop - start)
        chooser = detection[pair]
        taken[objects[pair], area, threshold] = True
        found[area, threshold, chooser] = ~truth.unnumbered[objects[pair]]
        ignored[area, threshold, chooser] = unwanted[pair, area]
        at_half = threshold == 0
        iou[area[at_half], chooser[at_half]] = ious[pair[at_half]]
    uncertain = _outside(detections.areas) | np.isin(detections.groups, truth.not_exhaustive)
    ignored |= ~found & uncertain[:, None]
    return Matches(found, ignored, iou, missing)


def by_class(truth: GroundTruth, detections: Detections, matches: Matches) -> Iterator[Ranked]:
    """The C classes' detections as the published tools rank them: equal scores by image, then place in the list."""
    edges = np.arange(len(truth.category_ids) + 1) * len(truth.image_ids)
    detection_edges, object_edges = (np.searchsorted(groups, edges) for groups in (detections.groups, truth.groups))
    wrong = ~(matches.found | matches.ignored)
    right = matches.found & ~matches.ignored
    for k in range(len(truth.category_ids)):
        of_class = slice(*detection_edges[k : k + 2])
        scores = detections.scores[of_class]
        order = np.argsort(-scores, kind="stable")
        yield Ranked(
            scores=scores[order],
            ranks=detections.ranks[of_class][order],
            right=right[:, :, of_class][:, :, order],
            wrong=wrong[:, :, of_class][:, :, order],
            iou=matches.iou[:, of_class][:, order],
            objects=np.count_nonzero(~matches.missing[:, slice(*object_edges[k : k + 2])], axis=1),
        )


def _outside(areas: np.ndarray) -> np.ndarray:
    """(A, n) bool: of another size."""
    return (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])


def _candidates(truth: GroundTruth, detections: Detections) -> Pairs:
    shared = np.intersect1d(detections.groups, truth.groups)
    both = (detections.groups, truth.groups)
    bounds = [np.searchsorted(groups, shared, side) for groups in both for side in ("left", "right")]
    found: list[np.ndarray] = []
    objects: list[np.ndarray] = []
    ious: list[np.ndarray] = []
    compare: Any = coco_mask.iou
    for d0, d1, g0, g1 in zip(*(bound.tolist() for bound in bounds), strict=True):
        table = compare(detections.shapes[d0:d1], truth.shapes[g0:g1], truth.crowd[g0:g1])
        row, column = np.nonzero(table >= LEAST_IOUS[0])
        if len(row):
            found.append(row + d0)
            objects.append(column + g0)
            ious.append(table[row, column])
    if not found:
        nothing = np.zeros(0, np.int64)
        return Pairs(nothing, nothing, np.zeros(0), nothing)
    detection, object_, iou = np.concatenate(found), np.concatenate(objects), np.concatenate(ious)
    begins = np.diff(detection, prepend=-1) > 0
    chooser = np.cumsum(begins) - 1  # (P,)
    group = detections.groups[detection[begins]]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    turn = (np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group)))))[chooser]
    order = np.lexsort((object_, iou, detection, turn))
    return Pairs(detection[order], object_[order], iou[order], turn[order])
