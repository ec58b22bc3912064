"""Detectors of a user that pass their other arguments on, as `mask_rcnn` does, and one that passes them on twice."""

from typing import Any

from rst.detectors import TwoStageDetector, faster_rcnn


def small_faster_rcnn(num_classes: int = 3, *, head_channels: int = 32, **settings: Any) -> TwoStageDetector:
    """Faster R-CNN with a narrow head.

    Args:
        num_classes: C.
        head_channels: width of the hidden layers.
        settings: the other arguments of `faster_rcnn`.
    """
    return faster_rcnn(num_classes, head_channels=head_channels, **settings)


def fine_faster_rcnn(num_classes: int = 3, *, finest: float = 4.0, **settings: Any) -> TwoStageDetector:
    """The same with small anchors.

    Args:
        num_classes: C.
        finest: side of the smallest anchor, in strides.
        settings: the other arguments of `small_faster_rcnn`.
    """
    return small_faster_rcnn(num_classes, anchor_scale=finest, **settings)
