"""A detector of two stages and more: proposals of an RPN, classified and refined by box heads, one behind the other.

n  images    F  channels    H, W  cells of a level
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .detections.select import Detections, DetectionSettings
from .detector import AnchorHead, Detector
from .features.backbones import PyramidBackbone
from .features.inputs import Batch
from .geometry.ground_truth import GroundTruth
from .heads.box_head import BoxHead, RoIPredictions
from .heads.mask_head import MaskHead
from .heads.rpn import RegionProposalNetwork
from .losses.contract import HeadLosses


class TwoStageDetector(Detector):
    """Faster R-CNN with one box head, Cascade R-CNN with several; with mask heads Mask R-CNN and Cascade Mask R-CNN.

    Each stage trains on the boxes that the stage before made, under a loss of its own. Detections have the mean of all
    stages' logits (masks: of their probabilities) and the boxes of the last stage.

    Args:
        backbone: levels of features by name from a batch of images.
        rpn: makes proposals.
        box_heads: the stages; all but the last must have boxes that no class is needed for.
        mask_heads: one for each stage, or none.
        num_classes: C.
        detections: which ones are returned.

    Attributes:
        heads: "rpn", and "roi" for one stage, "roi1", "roi2" and so on for several.
    """

    def __init__(
        self,
        backbone: PyramidBackbone,
        rpn: RegionProposalNetwork,
        box_heads: Sequence[BoxHead],
        mask_heads: Sequence[MaskHead] = (),
        *,
        num_classes: int,
        detections: DetectionSettings,
    ) -> None:
        super().__init__(backbone, num_classes)
        assert len(mask_heads) in (0, len(box_heads))
        self.rpn = rpn
        self.box_heads = cast(Sequence[BoxHead], nn.ModuleList(box_heads))
        self.mask_heads = cast(Sequence[MaskHead], nn.ModuleList(mask_heads))
        self.detections = detections
        stages = range(1, len(box_heads) + 1)
        titles = {"roi": "R-CNN"} if len(box_heads) == 1 else {f"roi{stage}": f"R-CNN {stage}" for stage in stages}
        self.heads = {"rpn": "RPN", **titles}
        self.iou_types = ("bbox", "segm") if mask_heads else ("bbox",)

    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        predictions = self.rpn(features.values())
        scene = self.rpn.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size, truth)
        proposals = self.rpn.propose(predictions, scene)
        found = {"rpn": self.rpn.loss(self.rpn.outputs(predictions, scene))}
        for stage, (name, box_head) in enumerate(zip(list(self.heads)[1:], self.box_heads, strict=True)):
            sample = box_head.sample(proposals, truth)
            of_rois = box_head(features, sample.proposals)
            outputs = box_head.outputs(of_rois, sample, truth)
            if self.mask_heads:
                outputs = outputs.beside(self.mask_heads[stage].tasks(features, sample, truth))
            found[name] = box_head.loss(outputs)
            if box_head is not self.box_heads[-1]:
                proposals = box_head.refine(of_rois, sample, batch.sizes)
        return found

    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        scene = self.rpn.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size)
        proposals = self.rpn.propose(self.rpn(features.values()), scene)
        of_rois = self.box_heads[0](features, proposals)
        logits = [of_rois.logits]
        for before, box_head in itertools.pairwise(self.box_heads):
            proposals = before.refined(of_rois, proposals, batch.sizes)
            of_rois = box_head(features, proposals)
            logits.append(of_rois.logits)
        of_rois = RoIPredictions(_mean(logits), of_rois.deltas)
        found = self.box_heads[-1].detect(of_rois, proposals, batch.sizes, self.detections)
        if not self.mask_heads:
            return found
        return self._with_masks(features, found, batch.sizes)

    def _with_masks(
        self, features: Mapping[str, Tensor], found: list[Detections], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        boxes, labels = [of_image.boxes for of_image in found], torch.cat([of_image.labels for of_image in found])
        counts = [len(of_image) for of_image in boxes]
        predictions = [mask_head(features, boxes, labels) for mask_head in self.mask_heads]
        masks = _mean([of_stage.logits.float().sigmoid() for of_stage in predictions])  # (k, S, S)
        scored = [of_stage.ious for of_stage in predictions if of_stage.ious is not None]
        ious = _mean(scored).split(counts) if scored else [None] * len(counts)
        return [
            self.mask_heads[-1].pasted(*of_image)
            for of_image in zip(found, masks.split(counts), ious, image_sizes, strict=True)
        ]

    def anchor_heads(self) -> Mapping[str, AnchorHead]:
        return {"rpn": AnchorHead(self.rpn.anchors, self.rpn.assigner, self.rpn, "anchor_scale", "anchor_ratios")}


def _mean(of_stages: Sequence[Tensor]) -> Tensor:
    """The mean over the stages, each of the same shape; of one stage its own tensor, not a copy."""
    return of_stages[0] if len(of_stages) == 1 else torch.stack(list(of_stages)).mean(dim=0)
