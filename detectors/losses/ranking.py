"""The recipes that train by ranking, on the losses of `rst.kernels`: Rank & Sort, AP loss, aLRP loss."""

from rst.kernels import SelfBalance, alrp, average_precision, rank_sort

from .contract import DetectionLoss, HeadLosses, HeadOutputs, head_losses
from .localisation import Localisation
from .tasks import Boxes

AT_VALUE = Localisation()  # of the paper
TWICE = Localisation(balance=2.0)


class RankSort(DetectionLoss):
    """Rank & Sort on every logit, labelled by quality, and the localisation beside it (paper, sections 3 to 5).

    Args:
        weight: factor of all terms; 0.20 in an RPN.
        delta: half-width of the smoothed step, in logits.
        sorting_error: False leaves the sorting error out of value and gradient, as the paper's ablation does; the tasks
            are then balanced to the ranking error alone (the paper does not say to what).
        localisation: weighting and balance of the tasks; by default both of the paper's.
    """

    def __init__(
        self,
        weight: float = 1.0,
        delta: float = 0.5,
        sorting_error: bool = True,
        localisation: Localisation = AT_VALUE,
    ) -> None:
        super().__init__()
        self.weight, self.delta, self.sorting_error, self.localisation = weight, delta, sorting_error, localisation

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        ranking, sorting = rank_sort(outputs.classification.logits, outputs.targets, delta=self.delta)
        errors = {"rank": ranking, "sort": sorting} if self.sorting_error else {"rank": ranking}
        return self.localisation.losses(outputs, errors, self.weight)


class AveragePrecision(DetectionLoss):
    """AP loss on every logit, and the localisation beside it (Chen et al., CVPR 2019; paper, section 6.1.2).

    Args:
        delta: half-width of the smoothed step, in logits.
        localisation: weighting and balance of the tasks.
    """

    def __init__(self, delta: float = 1.0, localisation: Localisation = TWICE) -> None:
        super().__init__()
        self.delta, self.localisation = delta, localisation

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        error = average_precision(outputs.classification.logits, outputs.targets, delta=self.delta)
        return self.localisation.losses(outputs, {"cls": error})


class Alrp(DetectionLoss):
    """aLRP loss: one ranking of classification and GIoU, balanced by itself (Oksuz et al., NeurIPS 2020).

    Its balance is a state that belongs into checkpoints. Every positive has its box error in the ranking, so
    `Boxes.counted` cannot leave one out. Nor need it: the balance is a ratio over a window, and does not explode where
    the errors of one step vanish.

    Args:
        weight: factor of both terms; 0.20 in an RPN. The balance is a ratio, and does not see it.
        delta: half-width of the smoothed step, in logits.
        window: training steps, an epoch's, after which the balance is renewed; 7330 is COCO's at 16 images.
        positive_iou: IoU from which a candidate is a positive. The ranking divides the box errors by 2 (1 - this), as
            the published code does with 0.5 and, in an RPN, 0.7; the box loss has them undivided.

    Raises:
        ValueError: for a `positive_iou` outside [0, 1).
    """

    def __init__(self, weight: float = 1.0, delta: float = 1.0, window: int = 7330, positive_iou: float = 0.5) -> None:
        super().__init__()
        if not 0 <= positive_iou < 1:
            raise ValueError(f"positive_iou={positive_iou!r} is not in [0, 1)")
        self.weight, self.delta, self.scale = weight, delta, 2 * (1 - positive_iou)
        self.balance = SelfBalance(window=window)

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        boxes = outputs.tasks.get("bbox")
        if outputs.tasks.keys() != {"bbox"} or not isinstance(boxes, Boxes):
            raise ValueError(f"aLRP ranks box errors and no others, not those of {', '.join(outputs.tasks)}")
        if boxes.counted is not None:
            raise ValueError("aLRP ranks the box errors of all positives: Boxes.counted has to be None")
        loss = alrp(outputs.classification.logits, outputs.targets, boxes.errors / self.scale, delta=self.delta)
        loss = loss._replace(localisation=self.scale * loss.localisation)
        factor = self.balance.weight.clone()  # of this step; calling the balance may renew it
        self.balance(loss)
        return head_losses(
            outputs,
            {"cls": loss.classification},
            {"bbox": factor * loss.localisation},
            weight=self.weight,
            balance={"bbox": factor},
        )
