"""Rank & Sort as it was published: Oksuz, Cam, Akbas, Kalkan, ICCV 2021, section 4 and the algorithm in its code.

M  logits    P  positives    R  visible negatives (at most delta below some positive)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rst.kernels import RankSortLoss, SparseTargets

from .equations import MASS_FLOOR, Outcome, step


def per_positive_loop(logits: Tensor, targets: Tensor, delta: float = 0.5) -> Outcome:
    """One positive at a time against all visible logits.

    As in the original, negatives more than delta below every positive are dropped first, each positive is asked whether
    it has an error to distribute, and the gradient is computed together with the value. O(P (P + R)) time in two dozen
    operator calls for each positive, O(M) memory. Needs at least one positive, as the original does.
    """
    is_positive = targets > 0
    positives, quality = logits[is_positive], targets[is_positive]
    count = len(positives)
    relevant = (targets == 0) & (logits >= positives.min() - delta)
    negatives = logits[relevant]

    negative_grad = torch.zeros_like(negatives)
    positive_grad = torch.zeros_like(positives)
    ranking_error, sorting_error = torch.zeros_like(positives), torch.zeros_like(positives)
    for i in positives.argsort().tolist():
        among_positives = step(positives - positives[i], delta)
        over_negatives = step(negatives - positives[i], delta)
        rank_among = among_positives.sum()
        false_positives = over_negatives.sum()
        ranking_error[i] = false_positives / (rank_among + false_positives)

        current = (among_positives * (1 - quality)).sum() / rank_among
        rightly_above = (quality >= quality[i]) * among_positives
        target = (rightly_above * (1 - quality)).sum() / rightly_above.sum()
        sorting_error[i] = current - target

        if false_positives > MASS_FLOOR:
            positive_grad[i] -= ranking_error[i]
            negative_grad += over_negatives * (ranking_error[i] / false_positives)
        missorted = (quality < quality[i]) * among_positives
        mass = missorted.sum()
        if mass > MASS_FLOOR:
            positive_grad[i] -= sorting_error[i]
            positive_grad += missorted * (sorting_error[i] / mass)

    gradient = torch.zeros_like(logits)
    gradient[is_positive] = positive_grad / count
    gradient[relevant] = negative_grad / count
    return Outcome(ranking_error.mean(), sorting_error.mean(), gradient)


class PerPositiveRankSort(Function):
    """The loop as an autograd function. As published, forward computes the gradient and backward scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, delta: float) -> tuple[Tensor, Tensor]:
        outcome = per_positive_loop(logits, labels, delta)
        ctx.save_for_backward(outcome.gradient)
        return outcome.ranking, outcome.sorting

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, ranking: Tensor, sorting: Tensor
    ) -> tuple[Tensor, None, None]:
        del sorting  # the published code drops it and expects that both parts are added with equal weight
        (gradient,) = ctx.saved_tensors
        return gradient * ranking, None, None


def per_positive_rank_sort(
    logits: Sequence[Tensor], targets: SparseTargets, *, delta: float = 0.5, **ours: object
) -> RankSortLoss:
    """The loop with the signature of `rank_sort` that detectors use. Its further arguments (`ours`) are ignored."""
    del ours
    flat = torch.cat([level.reshape(-1) for level in logits]).float()
    if len(targets.index) == 0:
        return RankSortLoss(flat.sum() * 0, flat.sum() * 0)
    labels = torch.zeros_like(flat)
    if targets.ignore is not None:
        masks = [targets.ignore] if isinstance(targets.ignore, Tensor) else targets.ignore
        labels.masked_fill_(torch.cat([mask.reshape(-1) for mask in masks]), -1)
    # a quality of 0 would turn the positive into a negative; without positives the loop fails
    labels.index_copy_(0, targets.index, targets.quality.detach().to(labels.dtype).clamp(min=1e-6))
    return RankSortLoss(*PerPositiveRankSort.apply(flat, labels, delta))
