"""What the functions that make a dense detector (`atss`, `paa`) have in common: checks of numbers, and the parts."""

from .assignment.anchors import AnchorGenerator
from .assignment.scene import Assigner
from .dense_detector import DenseDetector
from .dense_recipes import DenseRecipe
from .detections.select import DetectionSettings, Refinement
from .features.backbones import BackboneSettings, pyramid_backbone
from .features.pyramids import P3_TO_P7
from .geometry.boxes import BoxCoder
from .geometry.numbers import require_above_zero, require_count
from .heads.dense_head import AuxiliaryName, DenseHead
from .losses.score_scaling import ScoreScaling
from .switches import BOX_STD


def assemble(
    num_classes: int,
    backbone: BackboneSettings,
    recipe: DenseRecipe,
    assigner: Assigner,
    *,
    auxiliary: AuxiliaryName | None,
    octave_base_scale: float | None,
    scales_per_octave: int | None,
    head_channels: int,
    pre_nms: int,
    detections: DetectionSettings,
    refine: Refinement | None = None,
) -> DenseDetector:
    """The detector on P3 to P7; anchors that are None are the recipe's. See `atss` for the arguments.

    Raises:
        ValueError: for a number out of its range, an unknown backbone, or weights that do not fit.
    """
    pyramid = P3_TO_P7
    base = recipe.octave_base_scale if octave_base_scale is None else octave_base_scale
    count = recipe.scales_per_octave if scales_per_octave is None else scales_per_octave
    require_count("num_classes", num_classes)
    require_count("scales_per_octave", count)
    require_count("pre_nms", pre_nms)
    require_above_zero("octave_base_scale", base)
    return DenseDetector(
        pyramid_backbone(backbone, pyramid),
        DenseHead(backbone.fpn_channels, head_channels, count, num_classes, len(pyramid.levels), auxiliary=auxiliary),
        AnchorGenerator(pyramid.strides, [base * 2 ** (octave / count) for octave in range(count)], (1.0,)),
        assigner=assigner,
        loss=recipe.loss,
        coder=BoxCoder(BOX_STD),
        num_classes=num_classes,
        detections=detections,
        pre_nms=pre_nms,
        score_scaling=ScoreScaling() if recipe.score_scaling else None,
        refine=refine,
    )
