"""The losses of a sampled two-stage detector, which Rank & Sort is compared with: cross-entropy, and smooth L1 or GIoU.

P  positives of the batch    N  candidates of the batch (anchors, RoIs)    C  classes
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .classifiers import Softmax
from .contract import DetectionLoss, HeadLosses, HeadOutputs, head_losses
from .tasks import Boxes, Masks


def _localisation(outputs: HeadOutputs, candidates: int, beta: float, giou: float | None = None) -> dict[str, Tensor]:
    """Smooth L1 of boxes, or `giou` x (1 - GIoU), over all candidates; cross-entropy of masks over their cells."""
    terms = {}
    for name, task in outputs.tasks.items():
        if isinstance(task, Boxes):
            total = task.smooth_l1(beta) if giou is None else giou * task.total_error()
            terms[name] = total / max(candidates, 1)
        elif isinstance(task, Masks):
            terms[name] = task.cross_entropy()
    return terms


class BinaryCrossEntropy(DetectionLoss):
    """Sigmoid cross-entropy and smooth L1, both a mean over all sampled candidates: a standard RPN.

    Args:
        beta: |error| of a delta at which smooth L1 turns linear; 0 for L1.
    """

    def __init__(self, beta: float = 1 / 9) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        ranked = outputs.classification
        logits = torch.cat([level.flatten() for level in ranked.logits])
        truth = torch.zeros_like(logits, dtype=torch.float32)
        truth[ranked.index] = 1
        if ranked.ignore is not None:
            sampled = (~torch.cat([level.flatten() for level in ranked.ignore])).nonzero().squeeze(1)
            logits, truth = logits[sampled], truth[sampled]
        entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum")
        terms = _localisation(outputs, len(logits), self.beta)
        return head_losses(outputs, {"cls": entropy / max(len(logits), 1)}, terms)


class SoftmaxCrossEntropy(DetectionLoss):
    """Softmax over the classes and a background behind them, and smooth L1 or GIoU: a standard R-CNN head.

    It takes `logits` of one level, (N, C + 1), of candidates that were sampled before. It ignores none.

    Args:
        beta: |error| of a delta at which smooth L1 turns linear; 0 for L1.
        giou: factor of 1 - GIoU of the decoded boxes, which then takes the place of smooth L1; None: smooth L1.
        weight: factor of all terms, of a stage of a cascade.
    """

    classifier = Softmax()

    def __init__(self, beta: float = 1.0, giou: float | None = None, weight: float = 1.0) -> None:
        super().__init__()
        self.beta, self.giou, self.weight = beta, giou, weight

    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        ranked = outputs.classification
        (logits,) = ranked.logits
        candidates, outputs_each = logits.shape
        labels = torch.full((candidates,), outputs_each - 1, dtype=torch.int64, device=logits.device)
        label = ranked.index % outputs_each  # (P,)
        labels[ranked.index // outputs_each] = label
        entropy = F.cross_entropy(logits.float(), labels, reduction="sum") / max(candidates, 1)
        scores = ranked.candidate_logits.float().log_softmax(dim=1).gather(1, label[:, None]).squeeze(1)  # (P,)
        terms = _localisation(outputs, candidates, self.beta, self.giou)
        background = self.classifier.background
        return head_losses(outputs, {"cls": entropy}, terms, weight=self.weight, scores=scores, background=background)
