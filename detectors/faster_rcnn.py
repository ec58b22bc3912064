"""Faster R-CNN: RS R-CNN of the Rank & Sort paper, and the sampled cross-entropy detector it is compared with.

Both are one assembly. A `Recipe` holds what differs: the losses, the samplers, and the deltas' scale in the RPN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RPNHead

from .assignment.anchors import AnchorGenerator
from .assignment.max_iou import MaxIoUMatcher
from .features.backbones import TWO_STAGE, pyramid_backbone
from .features.inputs import PADDING, NormalizeAndPad, check_images, check_targets
from .geometry.boxes import BoxCoder
from .heads.box_head import BoxPredictor, RoIHeads
from .heads.roi_align import PyramidRoIAlign
from .heads.rpn import RegionProposalNetwork
from .losses.contract import DetectionLoss, refuse
from .losses.cross_entropy import BinaryCrossEntropy, SoftmaxCrossEntropy
from .losses.localisation import BoxLoss, TaskBalance
from .losses.ranking import RankSort

POOL_SIZE = 7  # cells along the side of a pooled RoI
ROI_STD = (0.1, 0.1, 0.2, 0.2)


@dataclass(frozen=True)
class Recipe:
    """What a loss brings with it."""

    rpn_loss: DetectionLoss
    roi_loss: DetectionLoss
    rpn_std: tuple[float, float, float, float]
    rpn_sampler: BalancedPositiveNegativeSampler | None = None
    roi_sampler: BalancedPositiveNegativeSampler | None = None


def _rank_sort(
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
) -> Recipe:
    box = BoxLoss().switched(score_weighting, task_balance)
    # 0.20 and the deltas' scale in the RPN are not tuned here: they come from the paper and its code (its section 5).
    rpn, roi = (
        RankSort(weight, 0.5 if delta is None else delta, sorting_error is not False, box) for weight in (0.20, 1.0)
    )
    return Recipe(rpn, roi, rpn_std=(0.1, 0.1, 0.2, 0.2))


def _cross_entropy(**options: Any) -> Recipe:
    refuse("cross_entropy", "which neither ranks nor balances", **options)
    return Recipe(
        BinaryCrossEntropy(),
        SoftmaxCrossEntropy(),
        rpn_std=(1.0, 1.0, 1.0, 1.0),
        rpn_sampler=BalancedPositiveNegativeSampler(256, 0.5),
        roi_sampler=BalancedPositiveNegativeSampler(512, 0.25),
    )


RECIPES: dict[str, Callable[..., Recipe]] = {"rank_sort": _rank_sort, "cross_entropy": _cross_entropy}


class FasterRCNN(GeneralizedRCNN):
    """torchvision's two-stage detector, for images of any size that are not resized and classes that count from 0.

    Args:
        backbone: levels of features by name from a batch of images.
        rpn: proposals and its losses.
        roi_heads: detections and its losses.
        num_classes: without background.
    """

    rpn: RegionProposalNetwork
    roi_heads: RoIHeads

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, roi_heads: RoIHeads, num_classes: int) -> None:
        super().__init__(backbone, rpn, roi_heads, NormalizeAndPad(PADDING))
        self.num_classes = num_classes

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What the last training step tells besides its losses, by name; empty before the first.

        Detached float64 scalars, no part of the objective; NaN: no value in that step. With * = rpn, roi:
            spearman_*                rank correlation in [-1, 1] of classification score and IoU of the positives
            positives_*, negatives_*  logits of the batch; ignored ones and those of a softmax's background left out
            negatives_per_positive_*  their ratio
            balance_*                 lambda, the factor of the box loss (Rank & Sort only)
        """
        return {**self.rpn.statistics, **self.roi_heads.statistics}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - torchvision's annotation is not what it returns
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """A training step's losses, or detections.

        Args:
            images: each (3, H, W) float RGB in [0, 1].
            targets: in training, per image "boxes" (G, 4) float XYXY in pixels and "labels" (G,) int64 in [0, C). G may
                be 0; boxes without width or height are left out.

        Returns:
            In training a dict of float32 scalars, "loss_rpn_*" and "loss_roi_*", whose sum is the objective. In
            evaluation per image a dict: "boxes" (k, 4) float32 XYXY pixels, "labels" (k,) int64 and "scores" (k,)
            float32 in [0, 1], by descending score.

        Raises:
            ValueError: for images or targets of a wrong shape or type, labels outside [0, C), coordinates not finite.
        """
        images = check_images(images)
        checked = check_targets(targets, images, self.num_classes) if self.training else None
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        proposals, rpn_losses = self.rpn(batch, features, checked)
        detections, roi_losses = self.roi_heads(features, proposals, batch.image_sizes, checked)
        return {**rpn_losses, **roi_losses} if self.training else detections


def faster_rcnn(
    num_classes: int = 80,
    *,
    backbone: str = "resnet50",
    weights: str | None = None,
    loss: Literal["rank_sort", "cross_entropy"] = "rank_sort",
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    frozen_stages: int = 1,
    fpn_channels: int = 256,
    head_channels: int = 1024,
    anchor_scale: float = 8.0,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    train_pre_nms: int = 2000,
    train_proposals: int = 1000,
    test_pre_nms: int = 1000,
    test_proposals: int = 1000,
    rpn_nms_iou: float = 0.7,
    score_threshold: float = 0.05,
    nms_iou: float = 0.5,
    detections_per_image: int = 100,
) -> FasterRCNN:
    """Faster R-CNN with FPN as the Rank & Sort paper trains it (section 5.1, table 1), or its cross-entropy baseline.

    With `loss="rank_sort"` every anchor and every proposal trains, without a sampler; classifiers are sigmoids without
    a background; labels are the IoUs of the predicted boxes; the box loss is score-weighted GIoU at the value of the
    ranking loss. With `loss="cross_entropy"` it is the usual detector: 256 anchors and 512 proposals sampled per image,
    cross-entropy, smooth L1. All images of a call form one ranking: four per process are part of the published recipe.

    Args:
        num_classes: C, without background; labels are 0 to C - 1.
        backbone: resnet18, resnet34, resnet50, resnet101 or mobilenet_v2.
        weights: of the backbone: a state-dict file, the name of torchvision's weights ("IMAGENET1K_V2"), or None.
        loss: the recipe.
        delta: half-width of the ranking's smoothed step, in logits (0.5). It and the next three are of Rank & Sort.
        sorting_error: False trains on the ranking error alone, to which the box loss is then balanced: the paper's
            ablation.
        score_weighting: False counts every positive alike in the box loss, instead of by its score (Table 9).
        task_balance: the factor of the box losses: "value", "magnitude" or a number, see `BoxLoss` ("value"; Table 9).
        frozen_stages: backbone stages that do not train: 1 is the stem and stage 1, 0 the stem, -1 none.
        fpn_channels: channels of each level, and of the RPN.
        head_channels: width of the R-CNN head's two hidden layers.
        anchor_scale: side of a square anchor, in strides (strides are 4, 8, 16, 32, 64 pixels).
        anchor_ratios: height / width of the anchors.
        train_pre_nms, test_pre_nms: candidates per level before the RPN's NMS.
        train_proposals, test_proposals: proposals per image after it.
        rpn_nms_iou: IoU of its suppression.
        score_threshold: lowest score of a detection: 0.05 to report AP; the paper's configuration has 0.40, for speed.
        nms_iou: IoU of the suppression within a class.
        detections_per_image: at most this many.

    Raises:
        ValueError: for an unknown backbone or loss, a switch that the loss does not have, fewer than one class, or
            weights that do not fit.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: a detector needs at least one class")
    if loss not in RECIPES:
        raise ValueError(f"loss={loss!r} is not one of {', '.join(RECIPES)}")
    recipe = RECIPES[loss](
        delta=delta, sorting_error=sorting_error, score_weighting=score_weighting, task_balance=task_balance
    )
    pyramid = pyramid_backbone(backbone, weights=weights, out_channels=fpn_channels, frozen_stages=frozen_stages)
    rpn = RegionProposalNetwork(
        AnchorGenerator(TWO_STAGE.strides, (anchor_scale,), anchor_ratios),
        RPNHead(fpn_channels, len(anchor_ratios)),
        loss=recipe.rpn_loss,
        matcher=MaxIoUMatcher(0.7, 0.3, low_quality=True, min_positive_iou=0.3),
        sampler=recipe.rpn_sampler,
        coder=BoxCoder(recipe.rpn_std),
        pre_nms={"training": train_pre_nms, "testing": test_pre_nms},
        post_nms={"training": train_proposals, "testing": test_proposals},
        nms_iou=rpn_nms_iou,
    )
    box_head = TwoMLPHead(fpn_channels * POOL_SIZE**2, head_channels)
    for layer in (box_head.fc6, box_head.fc7):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    roi_heads = RoIHeads(
        PyramidRoIAlign(TWO_STAGE.names[:4], TWO_STAGE.strides[:4], POOL_SIZE),
        box_head,
        BoxPredictor(head_channels, num_classes + recipe.roi_loss.background, num_classes),
        loss=recipe.roi_loss,
        matcher=MaxIoUMatcher(0.5, 0.5),
        sampler=recipe.roi_sampler,
        coder=BoxCoder(ROI_STD),
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        detections_per_image=detections_per_image,
    )
    return FasterRCNN(pyramid, rpn, roi_heads, num_classes)
