"""The recipes that train by ranking, on the losses of `rst.kernels`: Rank & Sort, AP loss, aLRP loss.

P  positives of the batch
"""

from dataclasses import dataclass

from torch import nn

from rst.kernels import SelfBalance, alrp, average_precision, rank_sort

from ..geometry.boxes import paired_giou
from .contract import DetectionLoss, HeadLosses, HeadOutputs
from .localisation import BoxLoss
from .statistics import head_statistics

AT_VALUE = BoxLoss()  # of the paper
TUNED = BoxLoss(balance=2.0)


@dataclass(frozen=True)
class RankSort(DetectionLoss):
    """Rank & Sort on every logit with IoU labels, and GIoU beside it (paper, sections 3 to 5).

    Args:
        weight: factor of all three terms; 0.20 in an RPN.
        delta: half-width of the smoothed step, in logits.
        sorting_error: False leaves the sorting error out of value and gradient, as the paper's ablation does; the box
            loss is then balanced to the ranking error alone (the paper does not say to what).
        box: weighting and balance of the boxes; by default both of the paper's.
    """

    weight: float = 1.0
    delta: float = 0.5
    sorting_error: bool = True
    box: BoxLoss = AT_VALUE

    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        ranking, sorting = rank_sort(outputs.logits, outputs.targets, delta=self.delta)
        errors = {"rank": ranking, "sort": sorting} if self.sorting_error else {"rank": ranking}
        return self.box.beside(errors, outputs, self.weight)


@dataclass(frozen=True)
class AveragePrecision(DetectionLoss):
    """AP loss on every logit, and GIoU beside it (Chen et al., CVPR 2019; paper, section 6.1.2).

    Args:
        delta: half-width of the smoothed step, in logits.
        box: weighting and balance of the boxes.
    """

    delta: float = 1.0
    box: BoxLoss = TUNED

    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        return self.box.beside({"cls": average_precision(outputs.logits, outputs.targets, delta=self.delta)}, outputs)


class Alrp(nn.Module, DetectionLoss):
    """aLRP loss: one ranking of classification and GIoU, balanced by itself (Oksuz et al., NeurIPS 2020).

    A module, for its balance is a state that belongs into checkpoints.

    Args:
        delta: half-width of the smoothed step, in logits.
        window: training steps, an epoch's, after which the balance is renewed; 7330 is COCO's at 16 images.
    """

    def __init__(self, delta: float = 1.0, window: int = 7330) -> None:
        super().__init__()
        self.delta = delta
        self.balance = SelfBalance(window=window)

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        errors = 1 - paired_giou(outputs.boxes, outputs.truths)
        loss = alrp(outputs.logits, outputs.targets, errors, delta=self.delta)
        factor = self.balance.weight.clone()  # of this step; calling the balance may renew it
        self.balance(loss)
        return HeadLosses(
            {"cls": loss.classification, "bbox": factor * loss.localisation},
            head_statistics(outputs.negatives(), outputs.positive_logits(), outputs.quality, balance=factor),
        )
