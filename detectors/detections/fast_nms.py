"""Fast non-maximum suppression: a detection goes where any better one of its class overlaps it, gone itself or not.

m  candidates above the threshold    g  classes that have any    q  candidates of a class    k  detections
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.boxes import paired_iou
from ..geometry.numbers import require_count

PAIRS_AT_ONCE = 1 << 22  # pairs of boxes: what the memory is bounded by, 16 MiB a tensor


@dataclass(frozen=True)
class FastNMS:
    """YOLACT's suppression (Bolya et al., ICCV 2019, section 5), for all classes together.

    Of a class only its best candidates are looked at, which bounds the pairs; of equal scores the first.

    Args:
        per_class: q, the most candidates of a class.
    """

    per_class: int = 200

    def __post_init__(self) -> None:
        require_count("nms_candidates", self.per_class)

    def __call__(
        self,
        boxes: Tensor,  # (m, 4)
        scores: Tensor,  # (m,)
        labels: Tensor,  # (m,) int64
        iou: float,
    ) -> Tensor:
        """The kept ones by descending score, (k,) int64."""
        if not len(boxes):
            return labels
        order = scores.argsort(descending=True, stable=True)
        order = order[labels[order].argsort(stable=True)]  # by class, then score
        of_class = labels[order]
        rank = torch.arange(len(order), device=order.device) - torch.searchsorted(of_class, of_class)
        looked_at = rank < self.per_class
        order, rank = order[looked_at], rank[looked_at]
        _, group = labels[order].unique_consecutive(return_inverse=True)
        side = int(rank.max()) + 1  # q
        table = order.new_full((int(group[-1]) + 1, side), -1)
        table[group, rank] = order
        kept = [_unbeaten(boxes, some, iou) for some in table.split(max(PAIRS_AT_ONCE // side**2, 1))]
        kept = torch.cat(kept)
        return kept[scores[kept].argsort(descending=True, stable=True)]


def _unbeaten(
    boxes: Tensor,  # (m, 4)
    table: Tensor,  # (g, q) int64, candidates of each class by descending score, then -1
    iou: float,
) -> Tensor:
    """Those candidates that no better one of their class overlaps by more, (k,) int64."""
    chosen = boxes[table.clamp(min=0)]  # (g, q, 4)
    overlap = paired_iou(chosen[:, :, None], chosen[:, None]).triu_(diagonal=1)  # with a better one (row), (g, q, q)
    return table[(overlap.amax(dim=1) <= iou) & (table >= 0)]
