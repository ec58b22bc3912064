"""The score-based baselines of a dense head: focal loss and quality focal loss, which look at one logit at a time.

    P  positives of the batch

Both sum over all logits as if they were negatives, and then exchange the few positives. No target of the size of the
logits is made, and backward computes the gradient of the negatives from the logits alone. So the baselines are as lean
as the ranking losses, and as fast as torch operators allow.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rst.kernels import gather_levels

from .contract import DetectionLoss, HeadLosses, HeadOutputs
from .localisation import Localisation, positives_of_a_process

# Score-based one-stage detectors tune lambda of the boxes; GFL has 2, and weights them by score.
TUNED = Localisation(balance=2.0, shared=True)


class _NegativeSum(Function):
    """Sum over the logits of p^gamma * softplus(s), the focal loss of a negative; p = sigmoid(s). Ignored logits: 0."""

    @staticmethod
    def forward(ctx: Any, gamma: float, ignore: Tensor | None, logits: Tensor) -> Tensor:
        ctx.gamma = gamma
        ctx.save_for_backward(logits, ignore)
        s = logits.float()
        losses = s.sigmoid().pow_(gamma).mul_(F.softplus(s))
        return (losses if ignore is None else losses.masked_fill_(ignore, 0)).sum()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, upstream: Tensor
    ) -> tuple[None, None, Tensor]:
        logits, ignore = ctx.saved_tensors
        s = logits.float()
        p = s.sigmoid()
        # d/ds p^gamma softplus(s) = p^gamma (gamma (1 - p) softplus(s) + p)
        gradient = F.softplus(s).mul_(1 - p).mul_(ctx.gamma).add_(p).mul_(p.pow_(ctx.gamma)).mul_(upstream)
        if ignore is not None:
            gradient.masked_fill_(ignore, 0)
        return None, None, gradient.to(logits.dtype)


def negative_sum(logits: Tensor, ignore: Tensor | None, gamma: float) -> Tensor:
    """() float32: the sum of sigmoid(s)^gamma * softplus(s) over all logits that are not ignored; any shape."""
    return _NegativeSum.apply(gamma, ignore, logits)


class PointwiseLoss(DetectionLoss):
    """A classification loss that is a sum over the logits divided by the number of positives, and GIoU beside it.

    With several processes the number is the mean of their numbers, as published.

    Args:
        localisation: weighting and balance of the tasks.
        gamma: exponent that reduces the weight of easy negatives.
        negative_weight: factor of the negatives.
    """

    def __init__(self, localisation: Localisation = TUNED, gamma: float = 2.0, negative_weight: float = 1.0) -> None:
        super().__init__()
        self.localisation, self.gamma, self.negative_weight = localisation, gamma, negative_weight

    @abstractmethod
    def positive(self, logits: Tensor, quality: Tensor) -> Tensor:
        """The losses (P,) of the positives from their logits and their quality, (P,) each."""

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        ranked = outputs.classification
        ignore = [None] * len(ranked.logits) if ranked.ignore is None else ranked.ignore
        pairs = zip(ranked.logits, ignore, strict=True)
        negatives = torch.stack([negative_sum(level, ignored, self.gamma) for level, ignored in pairs]).sum()
        own = gather_levels(ranked.logits, ranked.index).float()  # (P,)
        exchanged = self.positive(own, outputs.quality).sum()
        as_negatives = own.sigmoid().pow(self.gamma) * F.softplus(own)
        total = self.negative_weight * (negatives - as_negatives.sum()) + exchanged
        return self.localisation.losses(outputs, {"cls": total / positives_of_a_process(outputs)})


class Focal(PointwiseLoss):
    """Sigmoid focal loss (Lin et al., ICCV 2017): alpha = 0.25 for positives, 1 - alpha for negatives, gamma = 2."""

    def __init__(self, localisation: Localisation = TUNED, gamma: float = 2.0, negative_weight: float = 0.75) -> None:
        super().__init__(localisation, gamma, negative_weight)

    def positive(self, logits: Tensor, quality: Tensor) -> Tensor:
        del quality  # every positive has the same target
        return (1 - self.negative_weight) * (-logits).sigmoid().pow(self.gamma) * F.softplus(-logits)


class QualityFocal(PointwiseLoss):
    """Quality focal loss (Li et al., NeurIPS 2020, Eq. 4): a positive's target is its quality; `gamma` is beta."""

    def positive(self, logits: Tensor, quality: Tensor) -> Tensor:
        distance = (quality - logits.sigmoid()).abs()
        return distance.pow(self.gamma) * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
