"""What each loss brings to a dense detector: rows of the paper's Tables 2 and 9, by the name of the loss.

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
from dataclasses import dataclass, replace
from typing import Literal

from .losses.contract import DetectionLoss
from .losses.localisation import Localisation
from .losses.pointwise import Focal, QualityFocal
from .losses.ranking import AveragePrecision
from .switches import NO_SWITCH, UNIFIED, Switches

DenseLoss = Literal["rank_sort", "average_precision", "alrp", "focal", "qfl"]


@dataclass(frozen=True)
class DenseRecipe:
    """A loss and the anchors that it is trained with."""

    loss: DetectionLoss
    octave_base_scale: float = 4.0  # side of the smallest anchor, in strides
    scales_per_octave: int = 3
    score_scaling: bool = True  # see `ScoreScaling`
    box_weight: float = 1.0  # see `ProbabilisticAssigner`


def _rank_sort(switches: Switches) -> DenseRecipe:
    switches.refuse("rank_sort", UNIFIED, "centerness", "iou_head")
    switches.refuse("rank_sort", NO_SWITCH, "self_balance_window")
    return DenseRecipe(switches.rank_sort(1.0))


def _average_precision(switches: Switches) -> DenseRecipe:
    switches.refuse("average_precision", NO_SWITCH, "sorting_error", "self_balance_window")
    delta = 1.0 if switches.delta is None else switches.delta
    return DenseRecipe(AveragePrecision(delta, switches.localisation(Localisation(balance=2.0))))


def _alrp(switches: Switches) -> DenseRecipe:
    return DenseRecipe(switches.alrp())


def _pointwise(
    name: str, kind: Callable[[Localisation], DetectionLoss], row: Localisation, switches: Switches
) -> DenseRecipe:
    switches.refuse(name, "which does not rank", "delta", "sorting_error", "self_balance_window", "score_scaling")
    loss = kind(switches.localisation(row))
    return DenseRecipe(loss, octave_base_scale=8.0, scales_per_octave=1, score_scaling=False)


def _focal(switches: Switches) -> DenseRecipe:
    return _pointwise("focal", Focal, Localisation("uniform", 2.0, shared=True), switches)


def _qfl(switches: Switches) -> DenseRecipe:
    switches.refuse("qfl", UNIFIED, "centerness", "iou_head")
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
