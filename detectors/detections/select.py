"""From scored candidates to the detections of an image: threshold, suppression, the best ones.

R  candidates of an image    C  classes    k  detections
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

MIN_SIDE = 1e-2  # pixels: torchvision's bound on a detection's width and height


class Detections(NamedTuple):
    """The detections of an image, by descending score."""

    boxes: Tensor  # (k, 4) XYXY pixels
    scores: Tensor  # (k,)
    labels: Tensor  # (k,) int64


def select_detections(
    scores: Tensor,  # (R, C) float32
    decode: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int],
    *,
    threshold: float,
    nms_iou: float,
    limit: int,
    factors: Tensor | None = None,  # (R,)
) -> Detections:
    """Every (candidate, class) above the threshold is looked at; suppression treats each class apart.

    Args:
        scores: of each candidate and class.
        decode: makes boxes (m, 4), pixels, of the indices of m candidates and of their classes.
        shape: height and width of the image, pixels.
        threshold: lowest score.
        nms_iou: IoU above which a detection suppresses another of its class.
        limit: at most this many detections.
        factors: multiplied to the scores after the threshold, of an auxiliary head.
    """
    candidate, label = (scores > threshold).nonzero(as_tuple=True)
    score = scores[candidate, label]
    if factors is not None:
        score = score * factors[candidate]
    boxes = clip_boxes_to_image(decode(candidate, label), shape)
    large = remove_small_boxes(boxes, MIN_SIDE)
    boxes, score, label = boxes[large], score[large], label[large]
    kept = batched_nms(boxes, score, label, nms_iou)[:limit]
    return Detections(boxes[kept], score[kept], label[kept])
