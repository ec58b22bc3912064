"""From scored candidates to the detections of an image: threshold, suppression, the best ones.

R  candidates of an image    C  classes    m  candidates above the threshold    k  detections    H, W  pixels
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from ..geometry.numbers import require_count, require_share

MIN_SIDE = 1e-2  # pixels: torchvision's bound on a detection's width and height
AT_FIRST = 4096  # candidates that are looked at before all the others

# (boxes (m, 4), scores (m,), labels (m,), IoU threshold) -> the kept ones by descending score, (k,) int64
Suppression = Callable[[Tensor, Tensor, Tensor, float], Tensor]
# (boxes (m, 4), scores (m,), labels (m,), the kept ones (k,) int64) -> the boxes of the kept ones, (k, 4)
Refinement = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DetectionSettings:
    """Which detections of an image are returned.

    Args:
        score_threshold: lowest score of a detection: 0.05 to report AP.
        nms_iou: IoU above which a detection suppresses another of its class.
        limit: at most this many detections of an image.
    """

    score_threshold: float = 0.05
    nms_iou: float = 0.5
    limit: int = 100

    def __post_init__(self) -> None:
        require_share("detections.score_threshold", self.score_threshold)
        require_share("detections.nms_iou", self.nms_iou)
        require_count("detections.limit", self.limit)


class Detections(NamedTuple):
    """The detections of an image, by descending score."""

    boxes: Tensor  # (k, 4) XYXY pixels
    scores: Tensor  # (k,)
    labels: Tensor  # (k,) int64
    candidate: Tensor  # (k,) int64, the candidate that each comes from: its anchor or RoI among the R
    masks: Tensor | None = None  # (k, H, W) bool
    mask_scores: Tensor | None = None  # (k,), where they are not those of the boxes

    def as_dict(self) -> dict[str, Tensor]:
        """What a detector returns of an image."""
        found = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        optional = {"masks": self.masks, "mask_scores": self.mask_scores}
        return found | {key: value for key, value in optional.items() if value is not None}


def suppress_by_group(
    boxes: Tensor,  # (m, 4)
    scores: Tensor,  # (m,)
    groups: Tensor,  # (m,) int64
    iou: float,
) -> Tensor:
    """Non-maximum suppression within each group, its class or its level: the kept ones by descending score, (k,)."""
    with torch.device(boxes.device):  # torchvision makes a tensor on the default device
        return batched_nms(boxes, scores, groups, iou)


def select_detections(
    scores: Tensor,  # (R, C) float32
    decode: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int],
    settings: DetectionSettings,
    *,
    factors: Tensor | None = None,  # (R,)
    suppress: Suppression | None = None,
    refine: Refinement | None = None,
) -> Detections:
    """Looks at every (candidate, class) above the threshold; suppresses within each class.

    Where there are many, the best are looked at first, and the others only if too few of those survive: a candidate is
    suppressed by better ones alone, so the detections are the same. With 1,203 classes and a low threshold an image has
    a million candidates, and looking at all of them takes 20 times as long on a CPU.

    Args:
        scores: of each candidate and class.
        decode: makes boxes (m, 4), pixels, of the indices of m candidates and of their classes.
        shape: height and width of the image, pixels.
        settings: threshold, suppression and limit.
        factors: multiplied to the scores after the threshold, of an auxiliary head.
        suppress: chooses among overlapping detections, of which it then sees all; None: the better within each class.
        refine: changes the boxes of the chosen ones, for the better, by all others; scores and order stay.
    """
    candidate, label = (scores > settings.score_threshold).nonzero(as_tuple=True)
    score = scores[candidate, label]
    if factors is not None:
        score = score * factors[candidate]

    def chosen(candidate: Tensor, label: Tensor, score: Tensor) -> Detections:
        boxes = clip_boxes_to_image(decode(candidate, label), shape)
        large = remove_small_boxes(boxes, MIN_SIDE)
        boxes, score, label, candidate = boxes[large], score[large], label[large], candidate[large]
        kept = (suppress or suppress_by_group)(boxes, score, label, settings.nms_iou)[: settings.limit]
        refined = boxes[kept] if refine is None else refine(boxes, score, label, kept)
        return Detections(refined, score[kept], label[kept], candidate[kept])

    if suppress is not None or refine is not None or len(score) <= AT_FIRST:
        return chosen(candidate, label, score)
    order, looked_at = score.argsort(descending=True, stable=True), AT_FIRST
    while True:
        best = order[:looked_at]
        found = chosen(candidate[best], label[best], score[best])
        if len(found.boxes) == settings.limit or looked_at >= len(order):
            return found
        looked_at *= 8
