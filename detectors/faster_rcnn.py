"""Faster R-CNN: RS R-CNN of the Rank & Sort paper, and the sampled cross-entropy detector it is compared with.

Both are one assembly, and so are Mask R-CNN and Cascade R-CNN. A recipe holds what differs between the losses:
samplers, and the scale of the deltas.
"""

from collections.abc import Sequence

from torchvision.models.detection.rpn import RPNHead

from .assignment.anchors import AnchorGenerator
from .assignment.max_iou import MaxIoUAssigner, MaxIoUMatcher
from .assignment.sampling import SampledAssigner
from .detections.select import DetectionSettings
from .features.backbones import BackboneSettings, pyramid_backbone
from .features.pyramids import P2_TO_P6
from .geometry.boxes import BoxCoder
from .geometry.numbers import require_above_zero, require_count, require_share
from .heads.box_head import BoxHead
from .heads.mask_head import MaskHead, MaskSettings
from .heads.roi_align import PyramidRoIAlign
from .heads.rpn import ProposalSettings, RegionProposalNetwork
from .losses.localisation import TaskBalance
from .switches import Switches
from .two_stage_detector import TwoStageDetector
from .two_stage_recipes import Sampling, TwoStageLoss, two_stage_recipe

POOL_SIZE = 7  # cells along the side of a pooled RoI
MASK_POOL_SIZE = 14  # likewise for the mask head
POOLED_LEVELS = 4  # P2 to P5


def faster_rcnn(
    num_classes: int = 80,
    *,
    backbone: BackboneSettings = BackboneSettings(),
    loss: TwoStageLoss = "rank_sort",
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    self_balance_window: int | None = None,
    truths_in_box_loss: bool | None = None,
    rpn_sampling: Sampling | None = None,
    roi_sampling: Sampling | None = None,
    stages: Sequence[float] = (0.5,),
    masks: MaskSettings | None = None,
    head_channels: int = 1024,
    anchor_scale: float = 8.0,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    crossing_anchors: bool | None = None,
    proposals: ProposalSettings = ProposalSettings(),
    detections: DetectionSettings = DetectionSettings(),
) -> TwoStageDetector:
    """Faster R-CNN with FPN as the Rank & Sort paper trains it (section 5.1, table 1), or its cross-entropy baseline.

    With `loss="rank_sort"` every anchor and every proposal trains, without a sampler; classifiers are sigmoids without
    a background; labels are the IoUs of the predicted boxes; the box loss is score-weighted GIoU at the value of the
    ranking loss, over the positives that are not an object's own box. With `loss="cross_entropy"` it is the usual
    detector: 256 anchors and 512 proposals sampled per image, cross-entropy, smooth L1. With
    `loss="cross_entropy_giou"` its box head has the GIoU loss of the decoded boxes instead, ten times. With
    `loss="alrp"` both heads have aLRP loss, also without samplers and with sigmoids. All images of a call form one
    ranking: four per process are part of the published recipe.

    Args:
        num_classes: C, without background; labels are 0 to C - 1.
        backbone: backbone, weights, what is frozen, and channels of the pyramid (and so of the RPN).
        loss: the recipe.
        delta: half-width of the ranking's smoothed step, in logits (0.5; 1 with aLRP). Only Rank & Sort has the next
            three.
        sorting_error: False trains on the ranking error alone, to which the box loss is then balanced: the paper's
            ablation.
        score_weighting: False counts every positive alike in the box loss, instead of by its score (Table 9).
        task_balance: the factor of the box losses: "value", "magnitude" or a number, see `Localisation` ("value"; Table
            9).
        self_balance_window: training steps after which aLRP renews its balance; an epoch's (7330, COCO at 16 images).
        truths_in_box_loss: True counts the objects' own boxes, which train among the proposals, in the box loss of the
            box head, as the published code does. False: they are ranked alone (False with Rank & Sort; aLRP knows True
            only).
        rpn_sampling: which anchors train the RPN: "random" draws 256 of an image, at most half of them positives; "all"
            has no sampler ("all" with Rank & Sort and aLRP, otherwise "random"; Table 10).
        roi_sampling: which proposals train the box head: "random" draws 512 of an image, at most a quarter of them
            positives; "all" as above.
        stages: IoU with its object from which a RoI is a positive, for each box head. Several make it a Cascade R-CNN:
            one box for all classes of a RoI. See `cascade_rcnn`.
        masks: the mask head that stands beside each box head; None: no masks. See `mask_rcnn`.
        head_channels: width of the two hidden layers of the box head.
        anchor_scale: side of a square anchor, in strides (strides are 4, 8, 16, 32, 64 pixels).
        anchor_ratios: height / width of the anchors.
        crossing_anchors: whether anchors that cross the border of their image train the RPN. False is for large images:
            it leaves the anchors of coarse levels untrained where they are larger than the image (with several stages
            False, as published, otherwise True).
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
    for iou in stages:
        require_share("stages", iou)
    if masks is not None and loss == "alrp":
        raise ValueError("masks do not go with loss='alrp', which ranks box errors and no others")
    if masks is not None and masks.scoring and not loss.startswith("cross_entropy"):
        raise ValueError(f"masks.scoring=True does not go with loss={loss!r}, which has no auxiliary head")
    switches = Switches(
        delta,
        sorting_error,
        score_weighting,
        task_balance,
        self_balance_window,
        truths_in_box_loss=truths_in_box_loss,
    )
    recipe = two_stage_recipe(loss, switches, rpn_sampling, roi_sampling, stages=len(stages))
    pyramid, channels, cascade = P2_TO_P6, backbone.fpn_channels, len(stages) > 1
    pooled = pyramid.names[:POOLED_LEVELS], pyramid.strides[:POOLED_LEVELS]
    assigner = MaxIoUAssigner(
        MaxIoUMatcher(0.7, 0.3, low_quality=True, min_positive_iou=0.3),
        crossing=not cascade if crossing_anchors is None else crossing_anchors,
    )
    return TwoStageDetector(
        pyramid_backbone(backbone, pyramid),
        RegionProposalNetwork(
            RPNHead(channels, len(anchor_ratios)),
            AnchorGenerator(pyramid.strides, (anchor_scale,), anchor_ratios),
            assigner=assigner if recipe.rpn_sampler is None else SampledAssigner(assigner, recipe.rpn_sampler),
            loss=recipe.rpn_loss,
            coder=BoxCoder(recipe.rpn_std),
            proposals=proposals,
        ),
        [
            BoxHead(
                PyramidRoIAlign(*pooled, POOL_SIZE),
                channels,
                head_channels,
                num_classes,
                loss=stage.loss,
                # the published Mask R-CNN gives each object its best RoIs of at least the IoU, its cascade does not
                matcher=MaxIoUMatcher(iou, iou, low_quality=masks is not None and not cascade, min_positive_iou=iou),
                sampler=recipe.box_sampler,
                coder=BoxCoder(stage.std),
                class_agnostic=cascade,
                truths_in_box_loss=recipe.truths_in_box_loss,
            )
            for stage, iou in zip(recipe.stages, stages, strict=True)
        ],
        [MaskHead(PyramidRoIAlign(*pooled, MASK_POOL_SIZE), channels, num_classes, masks) for _ in stages if masks],
        num_classes=num_classes,
        detections=detections,
    )
