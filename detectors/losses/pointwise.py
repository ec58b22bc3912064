"""The score-based twins of a dense head: focal loss and quality focal loss, which look at one logit at a time.

    M  logits of the batch    P  positives

Both start from every logit as a negative and then exchange the few positives, so that no target of the size of the
logits is made; the gradient of the negatives is recomputed in backward from the logits alone. That is as lean as the
ranking losses are, and as fast as torch operators get: the twin is no straw man.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rst.kernels import gather_levels

from .contract import DetectionLoss, HeadLosses, HeadOutputs
from .localisation import BoxLoss, positives_of_a_process

# What score-based one-stage detectors have in common (GFL: lambda of the boxes 2, weighted by score).
TUNED = BoxLoss(balance=2.0, shared=True)


class _NegativeSum(Function):
    """Sum over the logits of p^gamma * softplus(s), the focal loss of a negative; p = sigmoid(s). Ignored ones: 0."""

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
    """() float32: the sum over the logits, of any shape, of sigmoid(s)^gamma * softplus(s), but for ignored ones."""
    return _NegativeSum.apply(gamma, ignore, logits)


@dataclass(frozen=True)
class PointwiseLoss(DetectionLoss):
    """A classification loss that is a sum over the logits, over the number of positives, and GIoU beside it.

    With several processes the number is the mean of theirs, as published.

    Args:
        gamma: exponent that plays down the easy negatives.
        negative_weight: factor of the negatives.
        box: weighting and balance of the boxes.
    """

    gamma: float = 2.0
    negative_weight: float = 1.0
    box: BoxLoss = TUNED

    @abstractmethod
    def positive(self, logits: Tensor, quality: Tensor) -> Tensor:
        """The losses (P,) of the positives from their logits and the IoU of their boxes, (P,) each."""

    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        ignores = [None] * len(outputs.logits) if outputs.ignore is None else outputs.ignore
        pairs = zip(outputs.logits, ignores, strict=True)
        negatives = torch.stack([negative_sum(part, ignore, self.gamma) for part, ignore in pairs]).sum()
        own = gather_levels(outputs.logits, outputs.index).float()  # (P,)
        exchanged = self.positive(own, outputs.quality).sum()
        as_negatives = own.sigmoid().pow(self.gamma) * F.softplus(own)
        total = self.negative_weight * (negatives - as_negatives.sum()) + exchanged
        return self.box.beside({"cls": total / positives_of_a_process(outputs)}, outputs)


@dataclass(frozen=True)
class Focal(PointwiseLoss):
    """Sigmoid focal loss (Lin et al., ICCV 2017): alpha = 0.25 for positives, 1 - alpha for negatives, gamma = 2."""

    negative_weight: float = 0.75

    def positive(self, logits: Tensor, quality: Tensor) -> Tensor:
        del quality  # a positive is a positive
        return (1 - self.negative_weight) * (-logits).sigmoid().pow(self.gamma) * F.softplus(-logits)


@dataclass(frozen=True)
class QualityFocal(PointwiseLoss):
    """Quality focal loss (Li et al., NeurIPS 2020, Eq. 4): a positive's score is to be its IoU; `gamma` is beta."""

    def positive(self, logits: Tensor, quality: Tensor) -> Tensor:
        distance = (quality - logits.sigmoid()).abs()
        return distance.pow(self.gamma) * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
