"""What each loss brings to SOLOv2: the rows of the paper's Table 7, by the name of the loss.

| loss        | classes     | masks weighted by | their factor |
|-------------|-------------|-------------------|--------------|
| "rank_sort" | Rank & Sort | score             | by value     |
| "focal"     | focal loss  | 1                 | 3            |

The error of a mask is 1 - Dice in both. Focal loss is divided by the number of positives, where the published code
divides by one more.
"""

from typing import Literal, get_args

from .losses.contract import DetectionLoss
from .losses.localisation import Localisation
from .losses.pointwise import Focal
from .switches import NO_SWITCH, Switches

GridLoss = Literal["rank_sort", "focal"]

DICE_WEIGHT = 3.0  # beside focal loss


def grid_loss(loss: str, switches: Switches) -> DetectionLoss:
    """The loss of that name; ValueError for an unknown one, or a switch that it lacks."""
    if loss == "rank_sort":
        switches.refuse(loss, NO_SWITCH, "self_balance_window")
        return switches.rank_sort(1.0)
    if loss == "focal":
        reason = "which does not rank"
        switches.refuse(loss, reason, "delta", "sorting_error", "self_balance_window", "score_scaling")
        return Focal(switches.localisation(Localisation("uniform", DICE_WEIGHT)))
    raise ValueError(f"loss={loss!r} is not one of {', '.join(get_args(GridLoss))}")
