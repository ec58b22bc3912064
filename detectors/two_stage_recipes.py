"""What each loss brings to a detector of two stages and more: rows of the paper's Table 1, by the name of the loss.

| loss                 | both heads                 | samplers    | RPN weighted by | scale of the RPN's deltas |
|----------------------|----------------------------|-------------|-----------------|---------------------------|
| "rank_sort"          | Rank & Sort, GIoU by value | none        | 0.2             | 0.1, 0.1, 0.2, 0.2        |
| "alrp"               | aLRP, GIoU by itself       | none        | 0.2             | 0.1, 0.1, 0.2, 0.2        |
| "cross_entropy"      | cross-entropy, smooth L1   | 256 and 512 | 1               | 1, 1, 1, 1                |
| "cross_entropy_giou" | see below                  | 256 and 512 | 1               | 1, 1, 1, 1                |

"cross_entropy_giou" is the table's row "GIoU": the R-CNN head has ten times the GIoU loss of the decoded boxes, the RPN
has L1, both beside cross-entropy. The samplers may be switched with every loss (Table 10).

Several stages (section 6.1.1, Cascade R-CNN): one more head of the same loss each. With cross-entropy their weights are
1, 0.5, 0.25 and their deltas ever finer, as usual; with a ranking loss all have the weight 1 and the scale above.

The R-CNN head also trains on the objects' own boxes. With "rank_sort" they are ranked and have no box loss, unless
`truths_in_box_loss` (as published) is set; with the others they have one, as is usual. aLRP cannot do without: there
the box errors of all positives are part of the ranking.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torchvision.models.detection._utils import BalancedPositiveNegativeSampler as Sampler

from .losses.contract import DetectionLoss
from .losses.cross_entropy import BinaryCrossEntropy, SoftmaxCrossEntropy
from .switches import BOX_STD, NO_SWITCH, Switches

TwoStageLoss = Literal["rank_sort", "alrp", "cross_entropy", "cross_entropy_giou"]
Sampling = Literal["random", "all"]

RPN_WEIGHT = 0.20  # of all terms of an RPN that ranks (paper, section 5)
RPN_IOU = 0.7  # of an anchor that is a positive; a box head of aLRP takes 0.5 in all stages
# Of an image, and the share of positives among them: the usual random samples of both heads.
RPN_SAMPLER = Sampler(256, 0.5)
BOX_SAMPLER = Sampler(512, 0.25)
GIOU_WEIGHT = 10.0  # of the GIoU loss beside cross-entropy

Std = tuple[float, float, float, float]  # of the four deltas of a box

# Of the stages of a cascade with cross-entropy: factor of their losses, scale of their deltas (Cai and Vasconcelos,
# CVPR 2018, as in the published code).
STAGE_WEIGHTS = (1.0, 0.5, 0.25)
STAGE_STDS: tuple[Std, ...] = (BOX_STD, (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


@dataclass(frozen=True)
class Stage:
    """The loss of one box head, and the scale of its deltas."""

    loss: DetectionLoss
    std: Std = BOX_STD


@dataclass(frozen=True)
class TwoStageRecipe:
    """The losses of all heads and what goes with them."""

    rpn_loss: DetectionLoss
    stages: Sequence[Stage]
    rpn_std: Std
    rpn_sampler: Sampler | None = None
    box_sampler: Sampler | None = None
    truths_in_box_loss: bool = True  # see `BoxHead`


def two_stage_recipe(
    loss: str,
    switches: Switches,
    rpn_sampling: Sampling | None = None,
    roi_sampling: Sampling | None = None,
    *,
    stages: int = 1,
) -> TwoStageRecipe:
    """The recipe of a detector with an RPN and that many box heads, with other samplers where they are given.

    Raises:
        ValueError: for an unknown loss or sampling, a switch that the loss lacks, or more stages than three.
    """
    if not 1 <= stages <= len(STAGE_WEIGHTS):
        raise ValueError(f"stages has {stages} elements, not 1 to {len(STAGE_WEIGHTS)}")
    if loss == "rank_sort":
        switches.refuse(loss, NO_SWITCH, "self_balance_window", "centerness")
        # The weight and the deltas' scale of the RPN are not tuned here: they come from the paper and its code.
        recipe = TwoStageRecipe(
            switches.rank_sort(RPN_WEIGHT),
            [Stage(switches.rank_sort(1.0)) for _ in range(stages)],
            rpn_std=BOX_STD,
            truths_in_box_loss=bool(switches.truths_in_box_loss),
        )
    elif loss == "alrp":
        recipe = TwoStageRecipe(
            switches.alrp(RPN_WEIGHT, RPN_IOU), [Stage(switches.alrp()) for _ in range(stages)], rpn_std=BOX_STD
        )
    elif loss in ("cross_entropy", "cross_entropy_giou"):
        switches.refuse(loss, "which neither ranks nor balances")
        giou = loss == "cross_entropy_giou"
        recipe = TwoStageRecipe(
            BinaryCrossEntropy(beta=0.0) if giou else BinaryCrossEntropy(),
            [
                Stage(SoftmaxCrossEntropy(giou=GIOU_WEIGHT if giou else None, weight=weight), std)
                for weight, std in zip(STAGE_WEIGHTS[:stages], STAGE_STDS, strict=False)
            ],
            rpn_std=(1.0, 1.0, 1.0, 1.0),
            rpn_sampler=RPN_SAMPLER,
            box_sampler=BOX_SAMPLER,
        )
    else:
        raise ValueError(f"loss={loss!r} is not one of {', '.join(get_args(TwoStageLoss))}")
    return replace(
        recipe,
        rpn_sampler=_sampler("rpn_sampling", rpn_sampling, RPN_SAMPLER, recipe.rpn_sampler),
        box_sampler=_sampler("roi_sampling", roi_sampling, BOX_SAMPLER, recipe.box_sampler),
    )


def _sampler(name: str, sampling: str | None, random: Sampler, usual: Sampler | None) -> Sampler | None:
    """The random sampler or none, as the argument `name` asks; where it is None, the usual one of the loss."""
    if sampling is None:
        return usual
    if sampling not in get_args(Sampling):
        raise ValueError(f"{name}={sampling!r} is not one of {', '.join(get_args(Sampling))}")
    return random if sampling == "random" else None
