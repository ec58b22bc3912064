"""Faster R-CNN: RS R-CNN of the Rank & Sort paper, and the sampled cross-entropy detector it is compared with.

Both are one assembly. A recipe holds what differs: losses, samplers, and the scale of the deltas in the RPN.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from torchvision.models.detection.rpn import RPNHead

from .assignment.anchors import AnchorGenerator
from .assignment.max_iou import MaxIoUAssigner, MaxIoUMatcher
from .assignment.sampling import SampledAssigner
from .detections.select import Detections, DetectionSettings
from .detector import AnchorHead, Detector
from .features.backbones import BackboneSettings, PyramidBackbone, pyramid_backbone
from .features.inputs import Batch
from .features.pyramids import P2_TO_P6
from .geometry.boxes import BoxCoder
from .geometry.ground_truth import GroundTruth
from .geometry.numbers import require_above_zero, require_count
from .heads.box_head import BoxHead
from .heads.roi_align import PyramidRoIAlign
from .heads.rpn import ProposalSettings, RegionProposalNetwork
from .losses.contract import HeadLosses
from .losses.localisation import TaskBalance
from .recipes import BOX_STD, Sampling, Switches, TwoStageLoss, two_stage_recipe

POOL_SIZE = 7  # cells along the side of a pooled RoI
POOLED_LEVELS = 4  # P2 to P5


class FasterRCNN(Detector):
    """Proposals of an RPN, classified and refined by one box head.

    Args:
        backbone: levels of features by name from a batch of images.
        rpn: makes proposals.
        box_head: turns them into detections.
        num_classes: C.
        detections: which ones are returned.
    """

    heads: ClassVar[Mapping[str, str]] = {"rpn": "RPN", "roi": "R-CNN"}

    def __init__(
        self,
        backbone: PyramidBackbone,
        rpn: RegionProposalNetwork,
        box_head: BoxHead,
        *,
        num_classes: int,
        detections: DetectionSettings,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.rpn = rpn
        self.box_head = box_head
        self.detections = detections

    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        predictions = self.rpn(features.values())
        scene = self.rpn.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size, truth)
        proposals = self.rpn.propose(predictions, scene)
        rpn_losses = self.rpn.loss(self.rpn.outputs(predictions, scene))
        sample = self.box_head.sample(proposals, truth)
        outputs = self.box_head.outputs(self.box_head(features, sample.proposals), sample, truth)
        return {"rpn": rpn_losses, "roi": self.box_head.loss(outputs)}

    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        scene = self.rpn.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size)
        proposals = self.rpn.propose(self.rpn(features.values()), scene)
        return self.box_head.detect(self.box_head(features, proposals), proposals, batch.sizes, self.detections)

    def anchor_heads(self) -> Mapping[str, AnchorHead]:
        return {"rpn": AnchorHead(self.rpn.anchors, self.rpn.assigner, self.rpn, "anchor_scale", "anchor_ratios")}


def faster_rcnn(
    num_classes: int = 80,
    *,
    backbone: BackboneSettings = BackboneSettings(),
    loss: TwoStageLoss = "rank_sort",
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    truths_in_box_loss: bool | None = None,
    rpn_sampling: Sampling | None = None,
    roi_sampling: Sampling | None = None,
    head_channels: int = 1024,
    anchor_scale: float = 8.0,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    proposals: ProposalSettings = ProposalSettings(),
    detections: DetectionSettings = DetectionSettings(),
) -> FasterRCNN:
    """Faster R-CNN with FPN as the Rank & Sort paper trains it (section 5.1, table 1), or its cross-entropy baseline.

    With `loss="rank_sort"` every anchor and every proposal trains, without a sampler; classifiers are sigmoids without
    a background; labels are the IoUs of the predicted boxes; the box loss is score-weighted GIoU at the value of the
    ranking loss, over the positives that are not an object's own box. With `loss="cross_entropy"` it is the usual
    detector: 256 anchors and 512 proposals sampled per image, cross-entropy, smooth L1. With
    `loss="cross_entropy_giou"` its box head has the GIoU loss of the decoded boxes instead, ten times. All images of a
    call form one ranking: four per process are part of the published recipe.

    Args:
        num_classes: C, without background; labels are 0 to C - 1.
        backbone: backbone, weights, what is frozen, and channels of the pyramid (and so of the RPN).
        loss: the recipe.
        delta: half-width of the ranking's smoothed step, in logits (0.5). It and the next four are of Rank & Sort.
        sorting_error: False trains on the ranking error alone, to which the box loss is then balanced: the paper's
            ablation.
        score_weighting: False counts every positive alike in the box loss, instead of by its score (Table 9).
        task_balance: the factor of the box losses: "value", "magnitude" or a number, see `Localisation` ("value"; Table
            9).
        truths_in_box_loss: True counts the objects' own boxes, which train among the proposals, in the box loss of the
            box head, as the published code does. False: they are ranked alone (False).
        rpn_sampling: which anchors train the RPN: "random" draws 256 of an image, at most half of them positives; "all"
            has no sampler ("all" with Rank & Sort, otherwise "random"; Table 10).
        roi_sampling: which proposals train the box head: "random" draws 512 of an image, at most a quarter of them
            positives; "all" as above.
        head_channels: width of the two hidden layers of the box head.
        anchor_scale: side of a square anchor, in strides (strides are 4, 8, 16, 32, 64 pixels).
        anchor_ratios: height / width of the anchors.
        proposals: how many proposals the RPN makes.
        detections: threshold, suppression and limit. The paper's configuration has a threshold of 0.40, for speed.

    Raises:
        ValueError: for an unknown backbone, loss or sampling, a switch that the loss does not have, fewer than one
            class, or weights that do not fit.
    """
    require_count("num_classes", num_classes)
    require_count("head_channels", head_channels)
    require_above_zero("anchor_scale", anchor_scale)
    require_count("the number of anchor_ratios", len(anchor_ratios))
    for ratio in anchor_ratios:
        require_above_zero("anchor_ratios", ratio)
    switches = Switches(delta, sorting_error, score_weighting, task_balance, truths_in_box_loss=truths_in_box_loss)
    recipe, pyramid = two_stage_recipe(loss, switches, rpn_sampling, roi_sampling), P2_TO_P6
    assigner = MaxIoUAssigner(MaxIoUMatcher(0.7, 0.3, low_quality=True, min_positive_iou=0.3))
    return FasterRCNN(
        pyramid_backbone(backbone, pyramid),
        RegionProposalNetwork(
            RPNHead(backbone.fpn_channels, len(anchor_ratios)),
            AnchorGenerator(pyramid.strides, (anchor_scale,), anchor_ratios),
            assigner=assigner if recipe.rpn_sampler is None else SampledAssigner(assigner, recipe.rpn_sampler),
            loss=recipe.rpn_loss,
            coder=BoxCoder(recipe.rpn_std),
            proposals=proposals,
        ),
        BoxHead(
            PyramidRoIAlign(pyramid.names[:POOLED_LEVELS], pyramid.strides[:POOLED_LEVELS], POOL_SIZE),
            backbone.fpn_channels,
            head_channels,
            num_classes,
            loss=recipe.box_loss,
            matcher=MaxIoUMatcher(0.5, 0.5),
            sampler=recipe.box_sampler,
            coder=BoxCoder(BOX_STD),
            truths_in_box_loss=recipe.truths_in_box_loss,
        ),
        num_classes=num_classes,
        detections=detections,
    )
