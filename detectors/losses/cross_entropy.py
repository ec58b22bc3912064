"""The losses of a sampled two-stage detector, which Rank & Sort is compared with: cross-entropy and smooth L1.

P  positives of the batch    N  candidates of the batch (anchors, RoIs)    C  classes
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .contract import DetectionLoss, HeadLosses, HeadOutputs
from .statistics import head_statistics


def _smooth_l1(outputs: HeadOutputs, candidates: int, beta: float) -> Tensor:
    targets = outputs.coder.encode_single(outputs.truths, outputs.references)
    return F.smooth_l1_loss(outputs.deltas, targets, beta=beta, reduction="sum") / max(candidates, 1)


@dataclass(frozen=True)
class BinaryCrossEntropy(DetectionLoss):
    """Sigmoid cross-entropy and smooth L1, both a mean over all sampled candidates: a standard RPN.

    Args:
        beta: |error| of a delta at which smooth L1 turns linear.
    """

    beta: float = 1 / 9

    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        logits = torch.cat([part.flatten() for part in outputs.logits])
        truth = torch.zeros_like(logits, dtype=torch.float32)
        truth[outputs.index] = 1
        if outputs.ignore is not None:
            sampled = (~torch.cat([part.flatten() for part in outputs.ignore])).nonzero().squeeze(1)
            logits, truth = logits[sampled], truth[sampled]
        entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum")
        terms = {"cls": entropy / max(len(logits), 1), "bbox": _smooth_l1(outputs, len(logits), self.beta)}
        return HeadLosses(terms, head_statistics(outputs.negatives(), outputs.positive_logits(), outputs.quality))


@dataclass(frozen=True)
class SoftmaxCrossEntropy(DetectionLoss):
    """Softmax over the classes and a background behind them, and smooth L1: a standard R-CNN head.

    It takes `logits` of one part, (N, C + 1), of candidates that were sampled before and so ignores none.

    Args:
        beta: |error| of a delta at which smooth L1 turns linear.
    """

    background: ClassVar[int] = 1
    beta: float = 1.0

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)[:, :-1]

    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        (logits,) = outputs.logits
        candidates, outputs_each = logits.shape
        labels = torch.full((candidates,), outputs_each - 1, device=logits.device)
        label = outputs.index % outputs_each  # (P,)
        labels[outputs.index // outputs_each] = label
        entropy = F.cross_entropy(logits.float(), labels, reduction="sum") / max(candidates, 1)
        terms = {"cls": entropy, "bbox": _smooth_l1(outputs, candidates, self.beta)}
        scores = outputs.rows.float().log_softmax(dim=1).gather(1, label[:, None]).squeeze(1)  # (P,)
        return HeadLosses(terms, head_statistics(outputs.negatives(self.background), scores, outputs.quality))
