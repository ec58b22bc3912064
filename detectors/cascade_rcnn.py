"""Cascade R-CNN: box heads one behind the other (Cai and Vasconcelos, CVPR 2018), with Rank & Sort or as usual."""

from collections.abc import Sequence
from typing import Any

from .faster_rcnn import faster_rcnn
from .two_stage_detector import TwoStageDetector


def cascade_rcnn(
    num_classes: int = 80, *, stages: Sequence[float] = (0.5, 0.6, 0.7), **settings: Any
) -> TwoStageDetector:
    """Cascade R-CNN with FPN as the Rank & Sort paper trains it (section 6.1.1), or its cross-entropy baseline.

    Each stage refines the boxes of the stage before and demands more of its positives. With `loss="rank_sort"` each has
    a ranking and a lambda of its own, all have the weight 1 and deltas of the same scale. With `loss="cross_entropy"`
    the stages weigh 1, 0.5, 0.25 and their deltas become finer. Everything else is `faster_rcnn`; with `masks` it is
    Cascade Mask R-CNN.

    Args:
        num_classes: C, without background; labels are 0 to C - 1.
        stages: IoU with its object from which a RoI is a positive, of each stage; two or three of them.
        settings: the other arguments of `faster_rcnn`.

    Raises:
        ValueError: for another number of stages, and as `faster_rcnn`.
    """
    if not 2 <= len(stages) <= 3:
        raise ValueError(f"stages={tuple(stages)!r} has {len(stages)} elements, not 2 or 3")
    return faster_rcnn(num_classes, stages=stages, **settings)
