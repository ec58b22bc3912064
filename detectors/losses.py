"""What a head's predictions cost: the Rank & Sort recipe and its cross-entropy twins, behind one call.

    P  positives of the batch    N  candidates of the batch (anchors, RoIs)    K  outputs per candidate    C  classes

A head fills in a `HeadOutputs`; a `DetectionLoss` turns it into named terms, and statistics beside them. All terms are
float32 scalars, attached to the graph even where there is no positive, so that every parameter has a gradient (of zero)
in every step.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rst.kernels import SparseTargets, gather_levels, rank_sort

from .boxes import BoxCoder, paired_giou, paired_iou
from .statistics import head_statistics

# Below this sum of weights a weighted mean is divided by 1 instead (published code).
WEIGHT_FLOOR = 1e-10
# A box loss below float32's resolution of a GIoU is rounding; balancing must not blow it up.
BALANCE_FLOOR = 1e-6


@dataclass(frozen=True)
class HeadOutputs:
    """One head's predictions for one batch, next to what they should be."""

    logits: Sequence[Tensor]  # parts (pyramid levels) of any shape that form one problem
    ignore: Sequence[Tensor] | None  # bool, shapes of `logits`: neither positive nor negative; None: nothing is ignored
    index: Tensor  # (P,) int64, the positives' own logits in the concatenation of the raveled `logits`
    rows: Tensor  # (P, K) all logits of the positives' candidates, detached
    deltas: Tensor  # (P, 4) float32 predicted box codes
    references: Tensor  # (P, 4) float32 boxes that the codes refer to
    truths: Tensor  # (P, 4) float32 matched ground truth, in the frame of the references
    coder: BoxCoder

    def boxes(self) -> Tensor:
        """The predicted boxes of the positives, (P, 4)."""
        return self.coder.decode_single(self.deltas, self.references)

    def positive_logits(self) -> Tensor:
        """The positives' own logits, (P,), detached."""
        return gather_levels([part.detach() for part in self.logits], self.index)

    def negatives(self, background: int = 0) -> Tensor:
        """How many logits are neither positive nor ignored, (), those of a `background` output left out."""
        logits = sum(part.numel() for part in self.logits)
        logits -= logits // self.rows.shape[1] * background
        count = torch.full((), logits - len(self.index), device=self.index.device)
        return count if self.ignore is None else count - torch.stack([part.sum() for part in self.ignore]).sum()


class HeadLosses(NamedTuple):
    """What a `DetectionLoss` returns."""

    terms: dict[str, Tensor]  # to be added, by short name ("rank", "cls", "bbox")
    statistics: dict[str, Tensor]  # of `head_statistics`


class DetectionLoss(ABC):
    """A classification and a box loss that belong together."""

    background: ClassVar[int] = 0  # outputs of the classifier beyond the classes; 1 for a softmax, the last one

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] of the classes, (N, C) float32, from logits (N, C + background)."""
        return logits.float().sigmoid()

    @abstractmethod
    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        """The terms, and what they tell besides."""


def score_weighted_mean(
    losses: Tensor,  # (P,) float32
    rows: Tensor,  # (P, K) logits
) -> Tensor:
    """Mean over positives, each weighted by its highest sigmoid score over all classes (paper, section 4; detached)."""
    weights = rows.detach().float().sigmoid().amax(dim=1)
    total = weights.sum()
    return (weights * losses).sum() / torch.where(total < WEIGHT_FLOOR, 1.0, total)


def balance_factor(
    loss: Tensor,  # ()
    reference: Tensor,  # ()
) -> Tensor:
    """The detached factor that gives `loss` the value of `reference`: lambda of task balancing (paper, section 4)."""
    return reference.detach() / loss.detach().clamp(min=BALANCE_FLOOR)


@dataclass(frozen=True)
class RankSort(DetectionLoss):
    """Rank & Sort on every logit with IoU labels, and score-weighted GIoU at the same value (paper, sections 3 and 4).

    Args:
        weight: factor of all three terms; 0.20 in an RPN.
        delta: half-width of the smoothed step, in logits.
        sorting_error: False leaves the sorting error out of value and gradient, as the paper's ablation does; the box
            loss is then balanced to the ranking error alone (the paper does not say to what).
    """

    weight: float = 1.0
    delta: float = 0.5
    sorting_error: bool = True

    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        boxes = outputs.boxes()
        quality = paired_iou(boxes.detach(), outputs.truths)
        targets = SparseTargets(outputs.index, quality, outputs.ignore)
        ranking, sorting = rank_sort(outputs.logits, targets, delta=self.delta)
        errors = {"rank": ranking, "sort": sorting} if self.sorting_error else {"rank": ranking}
        bbox = score_weighted_mean(1 - paired_giou(boxes, outputs.truths), outputs.rows)
        factor = balance_factor(bbox, torch.stack(list(errors.values())).sum())
        terms = {name: self.weight * term for name, term in {**errors, "bbox": factor * bbox}.items()}
        scores = outputs.positive_logits()
        return HeadLosses(terms, head_statistics(outputs.negatives(), scores, quality, balance=factor))


def _smooth_l1(outputs: HeadOutputs, candidates: int, beta: float) -> Tensor:
    targets = outputs.coder.encode_single(outputs.truths, outputs.references)
    return F.smooth_l1_loss(outputs.deltas, targets, beta=beta, reduction="sum") / max(candidates, 1)


@torch.no_grad()
def _predicted_iou(outputs: HeadOutputs) -> Tensor:
    return paired_iou(outputs.boxes(), outputs.truths)


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
        scores = outputs.positive_logits()
        return HeadLosses(terms, head_statistics(outputs.negatives(), scores, _predicted_iou(outputs)))


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
        negatives = outputs.negatives(self.background)
        return HeadLosses(terms, head_statistics(negatives, scores, _predicted_iou(outputs)))
