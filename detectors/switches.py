"""What may be chosen beside the loss of a detector, and which losses have which of these switches."""

from dataclasses import dataclass, fields, replace

import torch

from rst.kernels import average_precision

from .geometry.numbers import require_count
from .losses.localisation import Localisation, TaskBalance
from .losses.ranking import Alrp, RankSort

EPOCH = 7330  # training steps: COCO at 16 images
BOX_STD = (0.1, 0.1, 0.2, 0.2)  # of every box branch trained by ranking
UNIFIED = "whose scores express the quality of a box without an auxiliary head"
NO_SWITCH = "which has no such switch"


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
        if self.self_balance_window is not None:
            require_count("self_balance_window", self.self_balance_window)

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

    def alrp(self, weight: float = 1.0, positive_iou: float = 0.5) -> Alrp:
        """aLRP, as switched; ValueError for a switch that it lacks."""
        self.refuse("alrp", UNIFIED, "centerness", "iou_head")
        ranked = ("score_weighting", "iou_weighting", "task_balance")
        self.refuse("alrp", "which ranks and balances box errors itself", *ranked)
        self.refuse("alrp", NO_SWITCH, "sorting_error")
        if self.truths_in_box_loss is False:
            self.refuse("alrp", "which ranks the box errors of all positives", "truths_in_box_loss")
        window = EPOCH if self.self_balance_window is None else self.self_balance_window
        return Alrp(weight, 1.0 if self.delta is None else self.delta, window, positive_iou)

    def refuse(self, loss: str, reason: str, *names: str) -> None:
        """ValueError where one of these is chosen, all of them without `names`: `loss` lacks it, for that reason."""
        for name in names or (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(f"{name}={value!r} does not go with loss={loss!r}, {reason}")
