"""What each loss brings with it: the rows of the Rank & Sort paper's tables, by the name of the loss.

Two stages (Table 1):

| loss                 | both heads                 | samplers    | RPN weighted by | scale of the RPN's deltas |
|----------------------|----------------------------|-------------|-----------------|---------------------------|
| "rank_sort"          | Rank & Sort, GIoU by value | none        | 0.2             | 0.1, 0.1, 0.2, 0.2        |
| "cross_entropy"      | cross-entropy, smooth L1   | 256 and 512 | 1               | 1, 1, 1, 1                |
| "cross_entropy_giou" | see below                  | 256 and 512 | 1               | 1, 1, 1, 1                |

"cross_entropy_giou" is the table's row "GIoU": the R-CNN head has ten times the GIoU loss of the decoded boxes, the RPN
has L1, both beside cross-entropy. The samplers may be switched with every loss (Table 10).

The R-CNN head also trains on the objects' own boxes. With "rank_sort" they are ranked and have no box loss, unless
`truths_in_box_loss` (as published) is set; with the others they have one, as is usual.

One stage on anchors (Tables 2 and 9):

| loss                | boxes weighted by | their factor | smoothing | anchors of a cell |
|---------------------|-------------------|--------------|-----------|-------------------|
| "rank_sort"         | score             | by value     | 0.5       | 3                 |
| "average_precision" | score             | 2            | 1         | 3                 |
| "alrp"              | rank              | by itself    | 1         | 3                 |
| "focal"             | 1                 | 2            | -         | 1                 |
| "qfl"               | score             | 2            | -         | 1                 |

Losses that rank leave all scores near their prior; `ScoreScaling` scales them, which changes no gradient and no order.

With the auxiliary head boxes are weighted by centerness. The published code of the paper runs neither AP nor aLRP nor
focal loss without that head on ATSS; for AP the box loss is from the authors' later code (bucketed losses, ECCV 2024).

PAA (Table 2) has the same rows, but for these:

| loss                | with its auxiliary head (IoU) | boxes weighted by | their factor | smoothing |
|---------------------|-------------------------------|-------------------|--------------|-----------|
| "average_precision" | no / yes                      | score / IoU       | 1 / 1        | 0.5       |
| "focal"             | no / yes                      | 1 / IoU           | 2 / 1.3      | -         |
| "qfl"               | no                            | score, or IoU     | 2, or 1.3    | -         |

Of quality focal loss the paper ran both settings and printed the better, without saying which: the second is
`iou_weighting=True, task_balance=1.3`. None of these rows runs from published code, but for AP without the head, which
is from the authors' later code. The losses by which PAA picks its positives have the same factor of the box error, or
1 where the factor is no number; their classification is focal loss in every row.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler as Sampler

from rst.kernels import average_precision

from .losses.contract import DetectionLoss
from .losses.cross_entropy import BinaryCrossEntropy, SoftmaxCrossEntropy
from .losses.localisation import Localisation, TaskBalance
from .losses.pointwise import Focal, QualityFocal
from .losses.ranking import Alrp, AveragePrecision, RankSort

TwoStageLoss = Literal["rank_sort", "cross_entropy", "cross_entropy_giou"]
Sampling = Literal["random", "all"]
DenseLoss = Literal["rank_sort", "average_precision", "alrp", "focal", "qfl"]

EPOCH = 7330  # training steps: COCO at 16 images
RPN_WEIGHT = 0.20  # of all terms of an RPN that ranks (paper, section 5)
BOX_STD = (0.1, 0.1, 0.2, 0.2)  # of every box branch trained by ranking
# Of an image, and the share of positives among them: the usual random samples of both heads.
RPN_SAMPLER = Sampler(256, 0.5)
BOX_SAMPLER = Sampler(512, 0.25)
GIOU_WEIGHT = 10.0  # of the GIoU loss beside cross-entropy
_UNIFIED = "whose scores express the quality of a box without an auxiliary head"
_NO_SWITCH = "which has no such switch"


@dataclass(frozen=True)
class TwoStageRecipe:
    """The losses of both heads and what goes with them."""

    rpn_loss: DetectionLoss
    box_loss: DetectionLoss
    rpn_std: tuple[float, float, float, float]
    rpn_sampler: Sampler | None = None
    box_sampler: Sampler | None = None
    truths_in_box_loss: bool = True  # see `BoxHead`


@dataclass(frozen=True)
class DenseRecipe:
    """A loss and the anchors that it is trained with."""

    loss: DetectionLoss
    octave_base_scale: float = 4.0  # side of the smallest anchor, in strides
    scales_per_octave: int = 3
    score_scaling: bool = True  # see `ScoreScaling`
    box_weight: float = 1.0  # see `ProbabilisticAssigner`


@dataclass(frozen=True)
class Switches:
    """What may be chosen beside the loss; None: as the row of the loss has it."""

    delta: float | None = None
    sorting_error: bool | None = None
    score_weighting: bool | None = None
    task_balance: TaskBalance | None = None
    self_balance_window: int | None = None
    centerness: bool | None = None
    truths_in_box_loss: bool | None = None
    score_scaling: bool | None = None
    iou_head: bool | None = None
    iou_weighting: bool | None = None

    def __post_init__(self) -> None:
        if self.delta is not None:
            nothing = torch.zeros(0, dtype=torch.float32, device="cpu")
            average_precision(nothing, nothing, delta=self.delta)  # it says which deltas there are

    def localisation(self, row: Localisation) -> Localisation:
        """The localisation of the row, as switched."""
        for name in ("centerness", "iou_head", "iou_weighting"):
            if getattr(self, name):
                if self.score_weighting is not None:
                    given = f"score_weighting={self.score_weighting!r}"
                    raise ValueError(f"{given} does not go with {name}=True, which weights the boxes itself")
                row = replace(row, weighting="centerness" if name == "centerness" else "iou")
        return row.switched(self.score_weighting, self.task_balance)

    def rank_sort(self, weight: float) -> RankSort:
        """Rank & Sort, as switched."""
        delta = 0.5 if self.delta is None else self.delta
        return RankSort(weight, delta, self.sorting_error is not False, self.localisation(Localisation()))

    def refuse(self, loss: str, reason: str, *names: str) -> None:
        """ValueError where one of these is chosen, all of them without `names`: `loss` lacks it, for that reason."""
        for name in names or (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(f"{name}={value!r} does not go with loss={loss!r}, {reason}")


def two_stage_recipe(
    loss: str, switches: Switches, rpn_sampling: Sampling | None = None, roi_sampling: Sampling | None = None
) -> TwoStageRecipe:
    """The recipe of a two-stage detector, with other samplers where they are given.

    Raises:
        ValueError: for an unknown loss or sampling, or a switch that the loss lacks.
    """
    if loss == "rank_sort":
        switches.refuse(loss, _NO_SWITCH, "self_balance_window", "centerness")
        # The weight and the deltas' scale of the RPN are not tuned here: they come from the paper and its code.
        recipe = TwoStageRecipe(
            switches.rank_sort(RPN_WEIGHT),
            switches.rank_sort(1.0),
            rpn_std=BOX_STD,
            truths_in_box_loss=bool(switches.truths_in_box_loss),
        )
    elif loss in ("cross_entropy", "cross_entropy_giou"):
        switches.refuse(loss, "which neither ranks nor balances")
        giou = loss == "cross_entropy_giou"
        recipe = TwoStageRecipe(
            BinaryCrossEntropy(beta=0.0) if giou else BinaryCrossEntropy(),
            SoftmaxCrossEntropy(giou=GIOU_WEIGHT) if giou else SoftmaxCrossEntropy(),
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


def _rank_sort(switches: Switches) -> DenseRecipe:
    switches.refuse("rank_sort", _UNIFIED, "centerness", "iou_head")
    switches.refuse("rank_sort", _NO_SWITCH, "self_balance_window")
    return DenseRecipe(switches.rank_sort(1.0))


def _average_precision(switches: Switches) -> DenseRecipe:
    switches.refuse("average_precision", _NO_SWITCH, "sorting_error", "self_balance_window")
    delta = 1.0 if switches.delta is None else switches.delta
    return DenseRecipe(AveragePrecision(delta, switches.localisation(Localisation(balance=2.0))))


def _alrp(switches: Switches) -> DenseRecipe:
    switches.refuse("alrp", _UNIFIED, "centerness", "iou_head")
    ranked = ("score_weighting", "iou_weighting", "task_balance")
    switches.refuse("alrp", "which ranks and balances box errors itself", *ranked)
    switches.refuse("alrp", _NO_SWITCH, "sorting_error")
    window = EPOCH if switches.self_balance_window is None else switches.self_balance_window
    return DenseRecipe(Alrp(1.0 if switches.delta is None else switches.delta, window))


def _pointwise(
    name: str, kind: Callable[[Localisation], DetectionLoss], row: Localisation, switches: Switches
) -> DenseRecipe:
    switches.refuse(name, "which does not rank", "delta", "sorting_error", "self_balance_window", "score_scaling")
    loss = kind(switches.localisation(row))
    return DenseRecipe(loss, octave_base_scale=8.0, scales_per_octave=1, score_scaling=False)


def _focal(switches: Switches) -> DenseRecipe:
    return _pointwise("focal", Focal, Localisation("uniform", 2.0, shared=True), switches)


def _qfl(switches: Switches) -> DenseRecipe:
    switches.refuse("qfl", _UNIFIED, "centerness", "iou_head")
    return _pointwise("qfl", QualityFocal, Localisation("score", 2.0, shared=True), switches)


DENSE: dict[str, Callable[[Switches], DenseRecipe]] = {
    "rank_sort": _rank_sort,
    "average_precision": _average_precision,
    "alrp": _alrp,
    "focal": _focal,
    "qfl": _qfl,
}


def dense_recipe(loss: str, switches: Switches) -> DenseRecipe:
    """The recipe of a dense detector; ValueError for an unknown loss, or a switch that the loss lacks."""
    if loss not in DENSE:
        raise ValueError(f"loss={loss!r} is not one of {', '.join(DENSE)}")
    recipe = DENSE[loss](switches)
    return recipe if switches.score_scaling is None else replace(recipe, score_scaling=switches.score_scaling)


# What a row of PAA has other than ATSS's, where nothing else is chosen: by the loss, and whether it has the IoU head.
_PAA_ROWS: dict[tuple[str, bool], dict[str, float]] = {
    ("average_precision", False): {"delta": 0.5, "task_balance": 1.0},
    ("average_precision", True): {"delta": 0.5, "task_balance": 1.0},
    ("focal", True): {"task_balance": 1.3},
}


def paa_recipe(loss: str, switches: Switches) -> DenseRecipe:
    """The recipe of PAA; ValueError as from `dense_recipe`."""
    row = _PAA_ROWS.get((loss, bool(switches.iou_head)), {})
    chosen = {name: value for name, value in row.items() if getattr(switches, name) is None}
    recipe = dense_recipe(loss, replace(switches, **chosen))
    balance = getattr(recipe.loss, "localisation", Localisation()).balance
    return recipe if isinstance(balance, str) else replace(recipe, box_weight=float(balance))
