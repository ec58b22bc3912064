"""What a loss brings with it on a dense detector: the rows of Tables 2 and 9 of the Rank & Sort paper.

| loss                | boxes weighted by | their factor | smoothing | anchors of a cell |
|---------------------|-------------------|--------------|-----------|-------------------|
| "rank_sort"         | score             | by value     | 0.5       | 3                 |
| "average_precision" | score             | 2            | 1         | 3                 |
| "alrp"              | rank              | by itself    | 1         | 3                 |
| "focal"             | 1                 | 2            | -         | 1                 |
| "qfl"               | score             | 2            | -         | 1                 |

With the auxiliary head boxes are weighted by centerness. The published code of the paper runs neither AP nor aLRP nor
focal loss without that head on ATSS; for AP the box loss is from the authors' later code (bucketed losses, ECCV 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from .losses.contract import DetectionLoss, refuse
from .losses.localisation import BoxLoss, TaskBalance
from .losses.pointwise import Focal, QualityFocal
from .losses.ranking import Alrp, AveragePrecision, RankSort

LossName = Literal["rank_sort", "average_precision", "alrp", "focal", "qfl"]
EPOCH = 7330  # training steps: COCO at 16 images
_UNIFIED = "whose scores tell the quality of a box without an auxiliary head"
_NO_SWITCH = "which has no such switch"


@dataclass(frozen=True)
class Recipe:
    """A loss and the anchors that it is trained with."""

    loss: DetectionLoss
    octave_base_scale: float = 4.0  # side of the smallest anchor, in strides
    scales_per_octave: int = 3


@dataclass(frozen=True)
class Switches:
    """What may be chosen beside the loss; None: as the row of the loss has it."""

    delta: float | None = None
    sorting_error: bool | None = None
    score_weighting: bool | None = None
    task_balance: TaskBalance | None = None
    self_balance_window: int | None = None
    centerness: bool | None = None

    def box(self, row: BoxLoss) -> BoxLoss:
        """The box loss of the row, as switched."""
        if self.centerness:
            refuse("with centerness=True", "which weighs the boxes", score_weighting=self.score_weighting)
            row = replace(row, weighting="centerness")
        return row.switched(self.score_weighting, self.task_balance)

    def refuse(self, loss: str, reason: str, *names: str) -> None:
        """ValueError where one of these is chosen."""
        refuse(loss, reason, **{name: getattr(self, name) for name in names})


def _rank_sort(switches: Switches) -> Recipe:
    switches.refuse("rank_sort", _UNIFIED, "centerness")
    switches.refuse("rank_sort", _NO_SWITCH, "self_balance_window")
    delta = 0.5 if switches.delta is None else switches.delta
    return Recipe(RankSort(1.0, delta, switches.sorting_error is not False, switches.box(BoxLoss())))


def _average_precision(switches: Switches) -> Recipe:
    switches.refuse("average_precision", _NO_SWITCH, "sorting_error", "self_balance_window")
    delta = 1.0 if switches.delta is None else switches.delta
    return Recipe(AveragePrecision(delta, switches.box(BoxLoss(balance=2.0))))


def _alrp(switches: Switches) -> Recipe:
    switches.refuse("alrp", _UNIFIED, "centerness")
    switches.refuse("alrp", "which ranks and balances box errors itself", "score_weighting", "task_balance")
    switches.refuse("alrp", _NO_SWITCH, "sorting_error")
    window = EPOCH if switches.self_balance_window is None else switches.self_balance_window
    return Recipe(Alrp(1.0 if switches.delta is None else switches.delta, window))


def _pointwise(name: str, kind: Callable[..., DetectionLoss], row: BoxLoss, switches: Switches) -> Recipe:
    switches.refuse(name, "which does not rank", "delta", "sorting_error", "self_balance_window")
    return Recipe(kind(box=switches.box(row)), octave_base_scale=8.0, scales_per_octave=1)


def _focal(switches: Switches) -> Recipe:
    return _pointwise("focal", Focal, BoxLoss("uniform", 2.0, shared=True), switches)


def _qfl(switches: Switches) -> Recipe:
    switches.refuse("qfl", _UNIFIED, "centerness")
    return _pointwise("qfl", QualityFocal, BoxLoss("score", 2.0, shared=True), switches)


RECIPES: dict[str, Callable[[Switches], Recipe]] = {
    "rank_sort": _rank_sort,
    "average_precision": _average_precision,
    "alrp": _alrp,
    "focal": _focal,
    "qfl": _qfl,
}


def dense_recipe(loss: str, **switches: Any) -> Recipe:
    """The recipe of a loss by name, as switched; ValueError for an unknown name, or a switch that the loss lacks."""
    if loss not in RECIPES:
        raise ValueError(f"loss={loss!r} is not one of {', '.join(RECIPES)}")
    return RECIPES[loss](Switches(**switches))
