"""What each loss brings to YOLACT: rows of the paper's Table 6, by the name of the loss and its heuristics.

| row of table 6 | arguments                                                                                       |
|----------------|-------------------------------------------------------------------------------------------------|
| RS-YOLACT      | `loss="rank_sort"`                                                                              |
| YOLACT         | `loss="cross_entropy"`                                                                          |
| without OHEM   | and `hard_negatives=False`                                                                      |
| without sizes  | and `size_normalisation=False`                                                                  |
| without a head | and `semantic_head=False`                                                                       |
| without any    | and all three                                                                                   |

With "rank_sort" masks have Dice and boxes GIoU, both weighted by score and at the value of the ranking loss. With
"cross_entropy" the classes have a softmax with a background, boxes smooth L1, masks cross-entropy, with the factors
that `TaskWeights` has. The size normalisation of the published baseline is commented out in its code, so that it trains
the third row; here it is a switch.
"""

from dataclasses import dataclass, fields
from typing import Literal

from .losses.contract import DetectionLoss
from .losses.hard_negatives import HardNegativeCrossEntropy, TaskWeights
from .switches import NO_SWITCH, Switches

YolactLoss = Literal["rank_sort", "cross_entropy"]
NEGATIVES = 3  # hard ones for each positive


@dataclass(frozen=True)
class Heuristics:
    """What YOLACT trains with besides its losses; None: as the loss has it."""

    hard_negatives: bool | None = None
    size_normalisation: bool | None = None
    semantic_head: bool | None = None
    task_weights: TaskWeights | None = None


@dataclass(frozen=True)
class YolactRecipe:
    """A loss and what goes with it."""

    loss: DetectionLoss
    semantic_weight: float | None = None  # None: no semantic segmentation
    score_scaling: bool = False  # see `ScoreScaling`


def yolact_recipe(loss: str, switches: Switches, heuristics: Heuristics) -> YolactRecipe:
    """The recipe; ValueError for an unknown loss, or a switch that the loss lacks."""
    if loss == "rank_sort":
        switches.refuse(loss, NO_SWITCH, "self_balance_window", "centerness", "iou_head", "truths_in_box_loss")
        for field in fields(heuristics):
            value = getattr(heuristics, field.name)
            if value is not None:
                raise ValueError(f"{field.name}={value!r} does not go with loss='rank_sort', which needs no heuristics")
        return YolactRecipe(switches.rank_sort(1.0), score_scaling=switches.score_scaling is not False)
    if loss != "cross_entropy":
        raise ValueError(f"loss={loss!r} is not one of rank_sort, cross_entropy")
    switches.refuse(loss, "which neither ranks nor balances")
    weights = TaskWeights() if heuristics.task_weights is None else heuristics.task_weights
    return YolactRecipe(
        HardNegativeCrossEntropy(
            NEGATIVES if heuristics.hard_negatives is not False else None,
            by_size=heuristics.size_normalisation is not False,
            weights=weights,
        ),
        semantic_weight=weights.semantic if heuristics.semantic_head is not False else None,
    )
