"""Score voting: a detection's box becomes a mean of the boxes around it, those that the suppression removed included.

m  candidates above the threshold    k  detections
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.boxes import pairwise_iou

AT_ONCE = 1 << 20  # pairs of a detection and a candidate: what the memory is bounded by


@dataclass(frozen=True)
class ScoreVoting:
    """Candidates of the same class vote with score * exp(-(1 - IoU)^2 / `width`) (PAA, ECCV 2020, Eq. 10).

    Args:
        width: of the weights.
        least_iou: candidates up to this IoU have no vote.
    """

    width: float = 0.025
    least_iou: float = 0.01

    def __call__(
        self,
        boxes: Tensor,  # (m, 4)
        scores: Tensor,  # (m,)
        labels: Tensor,  # (m,) int64
        kept: Tensor,  # (k,) int64
    ) -> Tensor:
        """The boxes of the kept ones, (k, 4)."""
        if not len(kept):
            return boxes[kept]
        voted = []
        for some in kept.split(max(AT_ONCE // len(boxes), 1)):
            overlap = pairwise_iou(boxes[some], boxes)  # (some, m)
            votes = scores * (-(1 - overlap).square() / self.width).exp()
            of_class = labels[some][:, None] == labels
            votes = torch.where(of_class & (overlap > self.least_iou), votes, 0).double()
            # in float64: the sum runs over up to m boxes, and on a GPU a product may round its factors
            voted.append((votes @ boxes.double() / votes.sum(1, keepdim=True)).to(boxes.dtype))
        return torch.cat(voted)
