"""SOLOv2: RS-SOLOv2 of the Rank & Sort paper, light and full, and its baseline (Table 7)."""

from .assignment.grid import GridAssigner, GridSettings
from .detections.select_masks import MaskDetectionSettings
from .features.backbones import BackboneSettings, pyramid_backbone
from .features.pyramids import P2_TO_P6
from .geometry.numbers import require_count
from .grid_detector import GridDetector
from .heads.dynamic_masks import GridHead, MaskFeatures
from .losses.localisation import TaskBalance
from .losses.score_scaling import ScoreScaling
from .solov2_recipes import GridLoss, grid_loss
from .switches import Switches


def solov2(
    num_classes: int = 80,
    *,
    backbone: BackboneSettings = BackboneSettings(),
    loss: GridLoss = "rank_sort",
    delta: float | None = None,
    sorting_error: bool | None = None,
    score_weighting: bool | None = None,
    task_balance: TaskBalance | None = None,
    score_scaling: bool | None = None,
    soft_masks: bool = True,
    grids: GridSettings = GridSettings(),
    head_channels: int = 512,
    head_convolutions: int = 4,
    mask_channels: int = 128,
    kernel_channels: int = 256,
    detections: MaskDetectionSettings = MaskDetectionSettings(),
) -> GridDetector:
    """SOLOv2 (Wang et al., NeurIPS 2020) on P2 to P6, as the Rank & Sort paper trains it (section 6.2.2, table 7).

    It detects masks and no boxes. With `loss="rank_sort"` all logits of all levels, classes and images of a call form
    one ranking. Its labels are the Dice coefficients of the predicted masks, each with its own cell. The mask loss is
    1 - Dice, weighted by score, at the value of the ranking loss. With `"focal"` it is focal loss, and three times the
    mean of 1 - Dice. The defaults are the full model; the light one has `head_channels=256`, `head_convolutions=2`,
    `kernel_channels=128` and half as large `grids.scale_ranges`. An argument that is None is as the loss has it, and
    one that it does not know is refused.

    Args:
        num_classes: C; labels are 0 to C - 1.
        backbone: backbone, weights, what is frozen, and channels of the pyramid.
        loss: "rank_sort" or "focal" (focal and Dice).
        delta: half-width of a ranking's smoothed step, in logits (0.5).
        sorting_error: False trains on the ranking error of Rank & Sort alone.
        score_weighting: whether a positive counts in the mask loss by its highest score, or like all others.
        task_balance: the factor of the mask loss: "value", "magnitude" or a number, see `Localisation`.
        score_scaling: False leaves the scores where a ranking leaves them, as published; by default a running logistic
            scaling makes them guesses of the Dice coefficient (`ScoreScaling`). Of "rank_sort".
        soft_masks: masks are learnt at a quarter of the resolution: with the share of a cell that the object covers, so
            that borders between cells can be found, or (False) rounded to 0 or 1, as published.
        grids: cells of each level, and which objects are whose.
        head_channels: channels of the grid head's towers, a multiple of 32 from 64 on.
        head_convolutions: convolutions of a tower.
        mask_channels: channels of the mask features' convolutions, likewise.
        kernel_channels: of a mask's kernel and of the mask features, likewise.
        detections: thresholds, suppression and limit.

    Raises:
        ValueError: for an unknown backbone or loss, a switch that the loss does not have, a number out of its range, or
            weights that do not fit.
    """
    switches = Switches(delta, sorting_error, score_weighting, task_balance, score_scaling=score_scaling)
    chosen = grid_loss(loss, switches)
    levels = len(P2_TO_P6.levels)
    require_count("num_classes", num_classes)
    require_count("head_convolutions", head_convolutions)
    for name, values in (("grids.cells", grids.cells), ("detections.least_cells", detections.least_cells)):
        if len(values) != levels:
            raise ValueError(f"{name} has {len(values)} elements, not one for each of {levels} levels")
    features = backbone.fpn_channels
    return GridDetector(
        pyramid_backbone(backbone, P2_TO_P6),
        GridHead(features, head_channels, head_convolutions, kernel_channels, num_classes, grids.cells),
        MaskFeatures(features, mask_channels, kernel_channels),
        assigner=GridAssigner(grids),
        loss=chosen,
        num_classes=num_classes,
        detections=detections,
        soft_masks=soft_masks,
        score_scaling=ScoreScaling() if loss == "rank_sort" and score_scaling is not False else None,
    )
