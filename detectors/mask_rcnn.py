"""Mask R-CNN: Faster R-CNN with a mask head (He et al., ICCV 2017), as the Rank & Sort paper trains it or as usual."""

from typing import Any

from .faster_rcnn import faster_rcnn
from .heads.mask_head import MaskSettings
from .two_stage_detector import TwoStageDetector


def mask_rcnn(
    num_classes: int = 80,
    *,
    masks: MaskSettings = MaskSettings(),
    **settings: Any,
) -> TwoStageDetector:
    """Mask R-CNN with FPN as the Rank & Sort paper trains it (section 5.3, table 4), or its cross-entropy baseline.

    With `loss="rank_sort"` the masks of the positives have 1 - Dice, weighted by the scores of the box head and given
    the value of its ranking loss, as the boxes are; the labels of the ranking stay the IoUs of the boxes. With
    `loss="cross_entropy"` and `"cross_entropy_giou"` they have binary cross-entropy. Everything else is `faster_rcnn`.

    Args:
        num_classes: C, without background; labels are 0 to C - 1.
        masks: channels and depth of the mask head, how many positives train it, and its threshold.
        settings: the other arguments of `faster_rcnn`.

    Raises:
        ValueError: as `faster_rcnn`.
    """
    return faster_rcnn(num_classes, masks=masks, **settings)
