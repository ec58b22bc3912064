"""PAA: RS-PAA of the Rank & Sort paper, and the same detector under every other loss of its Table 2."""

from .assignment.probabilistic import ProbabilisticAssigner
from .dense_assembly import assemble
from .dense_detector import DenseDetector
from .dense_recipes import DenseLoss, paa_recipe
from .detections.select import DetectionSettings
from .detections.voting import ScoreVoting
from .features.backbones import BackboneSettings
from .geometry.boxes import BoxCoder
from .geometry.numbers import require_count
from .losses.localisation import TaskBalance
from .switches import BOX_STD, Switches


def paa(
    num_classes: int = 80,
    *,
    backbone: BackboneSettings = BackboneSettings(),
    loss: DenseLoss = "rank_sort",
    iou_head: bool = False,
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    iou_weighting: bool = False,
    task_balance: TaskBalance | None = None,
    self_balance_window: int | None = None,
    score_scaling: bool | None = None,
    octave_base_scale: float | None = None,
    scales_per_octave: int | None = None,
    candidates_per_level: int = 9,
    head_channels: int = 256,
    pre_nms: int = 1000,
    score_voting: bool = True,
    detections: DetectionSettings = DetectionSettings(nms_iou=0.6),
) -> DenseDetector:
    """PAA (Kim and Lee, ECCV 2020) on P3 to P7, as the Rank & Sort paper trains it (section 5.2, table 2).

    The head, the anchors and the losses are those of `atss`. Each object picks its positives by the losses of this
    step's predictions (`ProbabilisticAssigner`), and in evaluation the boxes around a detection vote for its own
    (`ScoreVoting`). `recipes` has what each loss brings with it, and the second setting of quality focal loss. An
    argument that is None is as that row has it, and one that a loss does not know is refused.

    Args:
        num_classes: C; labels are 0 to C - 1.
        backbone: backbone, weights, what is frozen, and channels of the pyramid.
        loss: "rank_sort", "average_precision", "alrp", "focal" or "qfl" (quality focal loss).
        iou_head: add PAA's auxiliary head, which predicts the IoU of the boxes; with "focal" or "average_precision".
            A score is then the square root of its product with that IoU, before the threshold.
        delta: half-width of a ranking's smoothed step, in logits (0.5, but 1 for aLRP).
        sorting_error: False trains on the ranking error of Rank & Sort alone.
        score_weighting: whether a positive counts in the box loss by its highest score, or like all others.
        iou_weighting: a positive counts in the box loss by the IoU of its predicted box, as it does with `iou_head`.
        task_balance: the factor of the box loss: "value", "magnitude" or a number, see `Localisation`. A number is
            also the factor of the box error in the losses by which positives are picked; otherwise that is 1.
        self_balance_window: training steps after which aLRP renews its balance; an epoch's (7330, COCO at 16 images).
        score_scaling: as for `atss`. Scores are weights of the votes, so boxes differ a little with and without it.
        octave_base_scale: side of a cell's smallest anchor, in strides (4 for ranking losses, 8 for the others).
        scales_per_octave: anchors of a cell, all square, each larger by that root of 2 (3, or 1).
        candidates_per_level: anchors of each level from which an object picks its positives.
        head_channels: channels of the head's towers, a multiple of 32 from 64 on.
        pre_nms: anchors of a level that are looked at, by their highest score.
        score_voting: False leaves the boxes as they are predicted.
        detections: threshold, suppression and limit.

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
        score_scaling=score_scaling,
        iou_head=iou_head or None,
        iou_weighting=iou_weighting or None,
    )
    recipe = paa_recipe(loss, switches)
    return assemble(
        num_classes,
        backbone,
        recipe,
        ProbabilisticAssigner(BoxCoder(BOX_STD), candidates_per_level, recipe.box_weight),
        auxiliary="iou" if iou_head else None,
        octave_base_scale=octave_base_scale,
        scales_per_octave=scales_per_octave,
        head_channels=head_channels,
        pre_nms=pre_nms,
        detections=detections,
        refine=ScoreVoting() if score_voting else None,
    )
