"""The loss of SSD and YOLACT, which RS-YOLACT is compared with: softmax over the classes, of few and hard negatives.

n  images    A  anchors per cell    K  outputs per candidate    H, W  cells of a level    N  candidates of an image
P  positives of the batch
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rst.kernels import gather_levels

from ..geometry.numbers import require_above_zero
from ..geometry.transfers import constant
from .classifiers import Softmax
from .contract import Classification, DetectionLoss, HeadLosses, HeadOutputs, head_losses
from .prototype_masks import PrototypeMasks
from .tasks import Boxes

BETA = 1.0  # |error| of a delta at which smooth L1 turns linear


@dataclass(frozen=True)
class TaskWeights:
    """The factors of YOLACT's losses, tuned by its authors (Bolya et al., ICCV 2019, section 4).

    Args:
        cls: of the cross-entropy of the classes.
        bbox: of smooth L1.
        mask: of the cross-entropy of the masks.
        semantic: of the cross-entropy of the semantic segmentation.
    """

    cls: float = 1.0
    bbox: float = 1.5
    mask: float = 6.125
    semantic: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            require_above_zero(f"task_weights.{field.name}", getattr(self, field.name))


class HardNegativeCrossEntropy(DetectionLoss):
    """Softmax with a background, smooth L1 of the deltas, cross-entropy of masks; each over the number of positives.

    Of the negatives of an image only the hardest train the classifier, those of the largest loss (Liu et al., SSD,
    ECCV 2016). It takes maps of logits, (n, A K, H, W).

    Args:
        ratio: hard negatives for each positive of an image; None: all negatives train.
        by_size: divide the loss of a mask by the area of its box, not by that of the map.
        weights: of the terms.
    """

    classifier = Softmax()

    def __init__(self, ratio: int | None = 3, *, by_size: bool = True, weights: TaskWeights = TaskWeights()) -> None:
        super().__init__()
        self.ratio, self.by_size, self.weights = ratio, by_size, weights

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        ranked, boxes = outputs.classification, outputs.tasks["bbox"]
        assert isinstance(boxes, Boxes)
        positives = max(len(ranked.index), 1)
        terms = {"bbox": self.weights.bbox / positives * boxes.smooth_l1(BETA)}
        masks = outputs.tasks.get("mask")
        if isinstance(masks, PrototypeMasks):
            terms["mask"] = self.weights.mask * masks.cross_entropy(by_size=self.by_size)
        entropy = self.weights.cls / positives * self.entropy(ranked)
        own = ranked.positive_logits().float() - ranked.candidate_logits.float().logsumexp(dim=1)
        return head_losses(outputs, {"cls": entropy}, terms, scores=own, background=self.classifier.background)

    def entropy(self, ranked: Classification) -> Tensor:
        """() the cross-entropy of all positives and of the negatives that train, summed."""
        each = ranked.candidate_logits.shape[1]  # K
        by_candidate = [level.float().unflatten(1, (-1, each)) for level in ranked.logits]  # (n, A, K, H, W)
        normalisers = [level.logsumexp(dim=2) for level in by_candidate]  # (n, A, H, W)
        place = candidate_places(ranked.index, [level.shape for level in ranked.logits], each)
        own = gather_levels(ranked.logits, ranked.index).float()
        of_positives = (gather_levels(normalisers, place) - own).sum()

        pairs = zip(normalisers, by_candidate, strict=True)
        losses = [normaliser - level[:, :, -1] for normaliser, level in pairs]  # as background, (n, A, H, W)
        count = sum(level.numel() for level in losses)
        is_positive = torch.zeros(count, dtype=torch.bool, device=place.device).index_fill_(0, place, True)
        positive = [
            of_level.view(level.shape).flatten(1)
            for of_level, level in zip(is_positive.split([x.numel() for x in losses]), losses, strict=True)
        ]
        positive = torch.cat(positive, dim=1)  # (n, N)
        left_out = positive
        if ranked.ignore is not None:
            ignored = [level.unflatten(1, (-1, each))[:, :, -1].flatten(1) for level in ranked.ignore]
            left_out = positive | torch.cat(ignored, dim=1)
        negatives = torch.cat([level.flatten(1) for level in losses], dim=1).masked_fill(left_out, 0)
        if self.ratio is not None:
            negatives = negatives.sort(dim=1, descending=True).values
            wanted = self.ratio * positive.sum(dim=1, keepdim=True)
            negatives = negatives.where(torch.arange(negatives.shape[1], device=wanted.device) < wanted, 0)
        return of_positives + negatives.sum()


def candidate_places(
    index: Tensor,  # (P,) int64, in the concatenation of the raveled maps of logits
    shapes: Sequence[Sequence[int]],  # of those maps: n, A K, H, W
    outputs: int,
) -> Tensor:
    """The places of the same candidates in the concatenation of the raveled maps (n, A, H, W), (P,) int64."""
    cells = constant([shape[2] * shape[3] for shape in shapes], index.dtype, index.device)
    sizes = constant([math.prod(shape) for shape in shapes], index.dtype, index.device)
    end = sizes.cumsum(0)
    level = torch.bucketize(index, end, right=True)
    area, start = cells[level], (end - sizes)[level]
    inside = index - start
    return start // outputs + inside // (area * outputs) * area + inside % area
