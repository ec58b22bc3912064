"""Region proposal network: all anchors train, and the logits of the pyramid are never concatenated.

n  images    A  anchors per cell    N  anchors of an image    P  positives of the batch    H, W  cells of a level
k  candidates or proposals of an image
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from rst.kernels import gather_levels

from ..assignment.anchors import AnchorGenerator
from ..assignment.scene import IGNORED, Assigner, Predictions, Scene
from ..detections.select import suppress_by_group
from ..geometry.boxes import BoxCoder, to_unit_frame
from ..geometry.numbers import require_count, require_share
from ..geometry.transfers import constant
from ..losses.contract import Classification, DetectionLoss, HeadOutputs
from ..losses.tasks import Boxes
from .decode import decode_boxes

MIN_SIDE = 1e-3  # pixels: torchvision's bound on a proposal's width and height


@dataclass(frozen=True)
class ProposalSettings:
    """How many proposals an RPN makes of an image.

    Args:
        train_pre_nms, test_pre_nms: candidates per level before the suppression.
        train_limit, test_limit: proposals per image after it.
        nms_iou: IoU above which a proposal suppresses another of its level.
    """

    train_pre_nms: int = 2000
    train_limit: int = 1000
    test_pre_nms: int = 1000
    test_limit: int = 1000
    nms_iou: float = 0.7

    def __post_init__(self) -> None:
        for name, least in (("train_pre_nms", 1), ("train_limit", 0), ("test_pre_nms", 1), ("test_limit", 0)):
            require_count(f"proposals.{name}", getattr(self, name), least)
        require_share("proposals.nms_iou", self.nms_iou)


class RegionProposalNetwork(nn.Module):
    """Objectness and boxes of every anchor, and the proposals made of them.

    Args:
        head: torchvision's, or one with the same outputs: per level logits (n, A, H, W) and deltas (n, 4 A, H, W).
        anchors: of every level.
        assigner: decides which anchors are positives.
        loss: of the outputs.
        coder: of the deltas.
        proposals: how many.
    """

    def __init__(
        self,
        head: RPNHead,
        anchors: AnchorGenerator,
        *,
        assigner: Assigner,
        loss: DetectionLoss,
        coder: BoxCoder,
        proposals: ProposalSettings,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.assigner = assigner
        self.loss = loss
        self.coder = coder
        self.proposals = proposals

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """Maps of logits and deltas from the levels (n, F, H, W) of a pyramid."""
        return Predictions(*self.head(list(maps)))

    @torch.no_grad()
    def propose(self, predictions: Predictions, scene: Scene) -> list[Tensor]:
        """The best anchors of each level, decoded, clipped, without duplicates: per image (k, 4) float32 pixels."""
        settings, training = self.proposals, self.training
        pre_nms = settings.train_pre_nms if training else settings.test_pre_nms
        limit = settings.train_limit if training else settings.test_limit
        levels = zip(*predictions, scene.anchors.split(scene.layout.counts), strict=True)
        scores, boxes = [], []
        for logits, deltas, anchors in levels:
            best, chosen = logits.flatten(1).topk(min(pre_nms, len(anchors)), dim=1)  # (n, k)
            # torchvision ranks the best once more. That reorders equal logits, and with them proposals, RoIs and sums.
            best, again = best.float().topk(best.shape[1], dim=1)
            chosen = chosen.gather(1, again)
            scores.append(best.sigmoid())
            boxes.append(decode_boxes(deltas, anchors, chosen, scene.layout, self.coder))
        level = torch.cat([s.new_full(s.shape[1:], i, dtype=torch.int64) for i, s in enumerate(scores)])
        per_image = zip(torch.cat(boxes, 1), torch.cat(scores, 1), scene.image_sizes, strict=True)
        return [self._best(*of_image, level, limit) for of_image in per_image]

    def _best(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int], level: Tensor, limit: int) -> Tensor:
        """The proposals of one image by descending score; a NaN is none."""
        boxes = clip_boxes_to_image(boxes, shape)
        kept = remove_small_boxes(boxes, MIN_SIDE)
        kept = kept[scores[kept] >= 0]
        kept = kept[suppress_by_group(boxes[kept], scores[kept], level[kept], self.proposals.nms_iou)]
        return boxes[kept[:limit]]

    def outputs(self, predictions: Predictions, scene: Scene) -> HeadOutputs:
        """Predictions beside their truths, boxes in the frame of their anchor (as in the paper's code)."""
        with torch.no_grad():
            match = self.assigner(scene, predictions)  # (n, N)
        image, anchor = (match >= 0).nonzero(as_tuple=True)
        positives = scene.anchors[anchor]  # (P, 4)
        index = scene.layout.place(image, anchor, channels=1).squeeze(1)
        logits = [level.flatten(1) for level in predictions.logits]  # (n, A H W)
        own = gather_levels([level.detach() for level in logits], index)  # (P,)
        boxes = Boxes(
            deltas=gather_levels(predictions.deltas, scene.layout.place(image, anchor, channels=4)).float(),
            references=constant([-0.5, -0.5, 0.5, 0.5], positives.dtype, positives.device).expand_as(positives),
            truths=to_unit_frame(scene.truth.all_boxes[match[image, anchor]], positives),
            coder=self.coder,
        )
        ignore = [level == IGNORED for level in match.split(scene.layout.counts, dim=1)]
        return HeadOutputs(Classification(logits, ignore, index, own[:, None]), {"bbox": boxes})
