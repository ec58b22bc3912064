"""YOLACT: RS-YOLACT of the Rank & Sort paper, and the detector of its Table 6 with and without its heuristics."""

import math
from collections.abc import Sequence

from .assignment.anchors import AnchorGenerator
from .assignment.max_iou import MaxIoUAssigner, MaxIoUMatcher
from .detections.fast_nms import FastNMS
from .detections.select import DetectionSettings
from .features.backbones import BackboneSettings, pyramid_backbone
from .features.pyramids import P3_TO_P7_FROM_C5
from .geometry.boxes import BoxCoder
from .geometry.numbers import require_above_zero, require_count
from .heads.prototypes import PrototypeHead, PrototypeSettings
from .losses.hard_negatives import TaskWeights
from .losses.localisation import TaskBalance
from .losses.score_scaling import ScoreScaling
from .prototype_detector import PrototypeDetector
from .switches import BOX_STD, Switches
from .yolact_recipes import Heuristics, YolactLoss, yolact_recipe


def yolact(
    num_classes: int = 80,
    *,
    backbone: BackboneSettings = BackboneSettings(frozen_stages=-1, fpn_upsampling="bilinear"),
    loss: YolactLoss = "rank_sort",
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    score_scaling: bool | None = None,
    hard_negatives: bool | None = None,
    size_normalisation: bool | None = None,
    semantic_head: bool | None = None,
    task_weights: TaskWeights | None = None,
    masks: PrototypeSettings = PrototypeSettings(),
    head_channels: int = 256,
    image_side: int | None = None,
    anchor_scale: float = 3.0,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    train_batch_norm: bool = True,
    pre_nms: int = 1000,
    nms_candidates: int = 200,
    detections: DetectionSettings = DetectionSettings(),
) -> PrototypeDetector:
    """YOLACT (Bolya et al., ICCV 2019) on P3 to P7, as the Rank & Sort paper trains it (section 6.2.2, table 6).

    Masks are sums of prototypes that an image has, with coefficients that each anchor predicts, cut to the box. With
    `loss="rank_sort"` all logits of all levels, classes and images of a call form one ranking, with the IoUs of the
    predicted boxes as labels; boxes have GIoU and masks Dice, weighted by score and at the value of the ranking loss.
    With `loss="cross_entropy"` it is the original, with all its heuristics or without some: rows of table 6, which
    `yolact_recipes` lists. An argument that is None is as that row has it, and one that a loss does not know is
    refused.

    Args:
        num_classes: C; labels are 0 to C - 1.
        backbone: backbone, weights, what is frozen (published: nothing, -1), channels of the pyramid and its upsampling
            (published: "bilinear"). P6 comes from C5.
        loss: "rank_sort" or "cross_entropy".
        delta: half-width of the ranking's smoothed step, in logits (0.5).
        sorting_error: False trains on the ranking error of Rank & Sort alone.
        score_weighting: False counts all positives alike in the losses of boxes and masks.
        task_balance: the factors of both: "value", "magnitude" or a number, see `Localisation`.
        score_scaling: as for `atss`.
        hard_negatives: False trains the classifier on all negatives; by default an image has three for each positive,
            those of the largest loss (OHEM). With "cross_entropy", as the next three.
        size_normalisation: False divides the loss of a mask by the area of the image, not by that of its box.
        semantic_head: False leaves out the semantic segmentation that trains beside the detector.
        task_weights: the factors of the terms.
        masks: prototypes, how many positives train them, and the threshold.
        head_channels: of the head's first convolution.
        image_side: the anchors are spread evenly over a square of this many pixels, which all images should be: 550 in
            the publication. None: anchors are at the strides of the levels, 8 to 128, for images of any size.
        anchor_scale: side of a square anchor, in strides (24 to 384 pixels).
        anchor_ratios: height / width of the anchors.
        train_batch_norm: whether batch normalisation outside the frozen stages uses the statistics of the batch.
        pre_nms: anchors of a level that are looked at, by their highest score.
        nms_candidates: candidates of a class that the suppression looks at, by score.
        detections: threshold, suppression and limit.

    Raises:
        ValueError: for an unknown backbone or loss, a switch that the loss does not have, a number out of its range, or
            weights that do not fit.
    """
    require_count("num_classes", num_classes)
    require_count("head_channels", head_channels)
    require_count("pre_nms", pre_nms)
    require_above_zero("anchor_scale", anchor_scale)
    require_count("the number of anchor_ratios", len(anchor_ratios))
    for ratio in anchor_ratios:
        require_above_zero("anchor_ratios", ratio)
    if image_side is not None:
        require_count("image_side", image_side)
    switches = Switches(delta, sorting_error, score_weighting, task_balance, score_scaling=score_scaling)
    recipe = yolact_recipe(loss, switches, Heuristics(hard_negatives, size_normalisation, semantic_head, task_weights))
    pyramid, weight = P3_TO_P7_FROM_C5, recipe.semantic_weight
    steps = pyramid.strides if image_side is None else [image_side / math.ceil(image_side / s) for s in pyramid.strides]
    return PrototypeDetector(
        pyramid_backbone(backbone, pyramid, train_batch_norm=train_batch_norm),
        PrototypeHead(
            backbone.fpn_channels,
            head_channels,
            len(anchor_ratios),
            num_classes + recipe.loss.classifier.background,
            masks,
            semantic_classes=None if weight is None else num_classes,
        ),
        AnchorGenerator(pyramid.strides, (anchor_scale,), anchor_ratios, steps=steps, offset=0.5, padding=1),
        assigner=MaxIoUAssigner(MaxIoUMatcher(0.5, 0.4, low_quality=True, every_tie=False)),
        loss=recipe.loss,
        coder=BoxCoder(BOX_STD),
        num_classes=num_classes,
        detections=detections,
        pre_nms=pre_nms,
        score_scaling=ScoreScaling() if recipe.score_scaling else None,
        suppress=FastNMS(nms_candidates),
        masks=masks,
        semantic_weight=1.0 if weight is None else weight,
    )
