"""ATSS: RS-ATSS of the Rank & Sort paper, and the same detector under every other loss of its Table 2."""

from .assignment.adaptive import AdaptiveMatcher
from .assignment.anchors import AnchorGenerator
from .dense_detector import DenseDetector
from .features.backbones import DENSE, pyramid_backbone
from .geometry.boxes import BoxCoder
from .heads.dense_head import DenseHead
from .losses.localisation import TaskBalance
from .recipes import LossName, dense_recipe

BOX_STD = (0.1, 0.1, 0.2, 0.2)


def atss(
    num_classes: int = 80,
    *,
    backbone: str = "resnet50",
    weights: str | None = None,
    loss: LossName = "rank_sort",
    centerness: bool = False,
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    self_balance_window: int | None = None,
    octave_base_scale: float | None = None,
    scales_per_octave: int | None = None,
    candidates_per_level: int = 9,
    frozen_stages: int = 1,
    fpn_channels: int = 256,
    head_channels: int = 256,
    score_threshold: float = 0.05,
    nms_iou: float = 0.6,
    pre_nms: int = 1000,
    detections_per_image: int = 100,
) -> DenseDetector:
    """ATSS (Zhang et al., CVPR 2020) on P3 to P7, as the Rank & Sort paper trains it (section 5.2, tables 2 and 9).

    With `loss="rank_sort"` there is no auxiliary head: all logits of all levels, classes and images of a call form one
    ranking, with the IoUs of the predicted boxes as labels, and the box loss is score-weighted GIoU at the value of the
    ranking loss. The other losses are the other rows of table 2; `dense_recipes` has what each brings with it. An
    argument that is None is as that row has it, and one that a loss does not know is refused.

    Args:
        num_classes: C; labels are 0 to C - 1.
        backbone: resnet18, resnet34, resnet50, resnet101 or mobilenet_v2.
        weights: of the backbone: a state-dict file, the name of torchvision's weights ("IMAGENET1K_V2"), or None.
        loss: "rank_sort", "average_precision", "alrp", "focal" or "qfl" (quality focal loss).
        centerness: add ATSS's auxiliary head; with "focal" or "average_precision".
        delta: half-width of a ranking's smoothed step, in logits (0.5 for Rank & Sort, 1 for AP and aLRP).
        sorting_error: False trains on the ranking error of Rank & Sort alone.
        score_weighting: whether a positive counts in the box loss by its highest score, or like all others.
        task_balance: the factor of the box loss: "value", "magnitude" or a number, see `BoxLoss`.
        self_balance_window: training steps after which aLRP renews its balance; an epoch's (7330, COCO at 16 images).
        octave_base_scale: side of a cell's smallest anchor, in strides (4 for ranking losses, 8 for the others).
        scales_per_octave: anchors of a cell, all square, each larger by that root of 2 (3, or 1).
        candidates_per_level: anchors of each level from which a ground truth chooses its positives.
        frozen_stages: backbone stages that do not train: 1 is the stem and stage 1, 0 the stem, -1 none.
        fpn_channels: channels of each level.
        head_channels: channels of the head's towers, a multiple of 32 from 64 on.
        score_threshold: lowest score of a detection.
        nms_iou: IoU of the suppression within a class.
        pre_nms: anchors of a level that are looked at, by their highest score.
        detections_per_image: at most this many.

    Raises:
        ValueError: for an unknown backbone or loss, a switch that the loss does not have, a number out of its range, or
            weights that do not fit.
    """
    for name, value, least in (
        ("num_classes", num_classes, 1),
        ("candidates_per_level", candidates_per_level, 1),
        ("scales_per_octave", scales_per_octave, 1),
        ("pre_nms", pre_nms, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is not at least {least}")
    if octave_base_scale is not None and octave_base_scale <= 0:
        raise ValueError(f"octave_base_scale={octave_base_scale} is not above 0")
    recipe = dense_recipe(
        loss,
        centerness=centerness or None,
        delta=delta,
        sorting_error=sorting_error,
        score_weighting=score_weighting,
        task_balance=task_balance,
        self_balance_window=self_balance_window,
    )
    base = recipe.octave_base_scale if octave_base_scale is None else octave_base_scale
    count = recipe.scales_per_octave if scales_per_octave is None else scales_per_octave
    scales = [base * 2 ** (octave / count) for octave in range(count)]
    return DenseDetector(
        pyramid_backbone(
            backbone, weights=weights, out_channels=fpn_channels, frozen_stages=frozen_stages, pyramid=DENSE
        ),
        DenseHead(fpn_channels, head_channels, count, num_classes, len(DENSE.strides), centerness=centerness),
        AnchorGenerator(DENSE.strides, scales, (1.0,)),
        matcher=AdaptiveMatcher(candidates_per_level),
        loss=recipe.loss,
        coder=BoxCoder(BOX_STD),
        num_classes=num_classes,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        pre_nms=pre_nms,
        detections_per_image=detections_per_image,
    )
