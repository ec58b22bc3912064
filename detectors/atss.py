"""ATSS: RS-ATSS of the Rank & Sort paper, and the same detector under every other loss of its Table 2."""

from .assignment.adaptive import AdaptiveAssigner
from .dense_assembly import assemble
from .dense_detector import DenseDetector
from .dense_recipes import DenseLoss, dense_recipe
from .detections.select import DetectionSettings
from .features.backbones import BackboneSettings
from .geometry.numbers import require_count
from .losses.localisation import TaskBalance
from .switches import Switches


def atss(
    num_classes: int = 80,
    *,
    backbone: BackboneSettings = BackboneSettings(),
    loss: DenseLoss = "rank_sort",
    centerness: bool = False,
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    self_balance_window: int | None = None,
    score_scaling: bool | None = None,
    octave_base_scale: float | None = None,
    scales_per_octave: int | None = None,
    candidates_per_level: int = 9,
    head_channels: int = 256,
    pre_nms: int = 1000,
    detections: DetectionSettings = DetectionSettings(nms_iou=0.6),
) -> DenseDetector:
    """ATSS (Zhang et al., CVPR 2020) on P3 to P7, as the Rank & Sort paper trains it (section 5.2, tables 2 and 9).

    With `loss="rank_sort"` there is no auxiliary head: all logits of all levels, classes and images of a call form one
    ranking, with the IoUs of the predicted boxes as labels, and the box loss is score-weighted GIoU at the value of the
    ranking loss. The other losses are the other rows of table 2; `recipes` has what each brings with it. An
    argument that is None is as that row has it, and one that a loss does not know is refused.

    Args:
        num_classes: C; labels are 0 to C - 1.
        backbone: backbone, weights, what is frozen, and channels of the pyramid.
        loss: "rank_sort", "average_precision", "alrp", "focal" or "qfl" (quality focal loss).
        centerness: add ATSS's auxiliary head; with "focal" or "average_precision".
        delta: half-width of a ranking's smoothed step, in logits (0.5 for Rank & Sort, 1 for AP and aLRP).
        sorting_error: False trains on the ranking error of Rank & Sort alone.
        score_weighting: whether a positive counts in the box loss by its highest score, or like all others.
        task_balance: the factor of the box loss: "value", "magnitude" or a number, see `Localisation`.
        self_balance_window: training steps after which aLRP renews its balance; an epoch's (7330, COCO at 16 images).
        score_scaling: False leaves the scores where a ranking leaves them, near 0.01 in short trainings, as published;
            by default a running logistic scaling makes them guesses of the IoU (`ScoreScaling`). Of losses that rank;
            AP is the same, but for detections that the threshold hid.
        octave_base_scale: side of a cell's smallest anchor, in strides (4 for ranking losses, 8 for the others).
        scales_per_octave: anchors of a cell, all square, each larger by that root of 2 (3, or 1).
        candidates_per_level: anchors of each level from which an object picks its positives.
        head_channels: channels of the head's towers, a multiple of 32 from 64 on.
        pre_nms: anchors of a level that are looked at, by their highest score.
        detections: threshold (before the centerness), suppression and limit.

    Raises:
        ValueError: for an unknown backbone or loss, a switch that the loss does not have, a number out of its range, or
            weights that do not fit.
    """
    require_count("candidates_per_level", candidates_per_level)
    switches = Switches(
        delta,
        sorting_error,
        score_weighting,
        task_balance,
        self_balance_window,
        centerness or None,
        score_scaling=score_scaling,
    )
    return assemble(
        num_classes,
        backbone,
        dense_recipe(loss, switches),
        AdaptiveAssigner(candidates_per_level),
        auxiliary="centerness" if centerness else None,
        octave_base_scale=octave_base_scale,
        scales_per_octave=scales_per_octave,
        head_channels=head_channels,
        pre_nms=pre_nms,
        detections=detections,
    )
