"""What our losses are measured against, written from the papers: the same numbers by other means.

M  logits      P  positives      R  negatives that some positive can see
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Outcome(NamedTuple):
    """Values of both parts and the gradient of their sum."""

    ranking: Tensor  # ()
    sorting: Tensor  # ()
    gradient: Tensor  # (M,)


def smoothed_step(difference: Tensor, delta: float) -> Tensor:
    """H of section 4 for delta > 0, as the published code writes it."""
    return torch.clamp(difference / (2 * delta) + 0.5, min=0, max=1)


def per_positive_loop(logits: Tensor, targets: Tensor, delta: float = 0.5, floor: float = 1e-10) -> Outcome:
    """Rank & Sort as it was published (ICCV 2021): one positive at a time against all that it can see.

    Like the original it first drops the negatives below every positive's reach and makes the gradient while it
    computes the value. O(P (P + R)) time in 2 P dozen operator calls, O(M) memory.
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
        among_positives = smoothed_step(positives - positives[i], delta)
        over_negatives = smoothed_step(negatives - positives[i], delta)
        rank_among = among_positives.sum()
        false_positives = over_negatives.sum()
        ranking_error[i] = false_positives / (rank_among + false_positives)

        current = (among_positives * (1 - quality)).sum() / rank_among
        rightly_above = (quality >= quality[i]) * among_positives
        target = (rightly_above * (1 - quality)).sum() / rightly_above.sum()
        sorting_error[i] = current - target

        if false_positives > floor:
            positive_grad[i] -= ranking_error[i]
            negative_grad += over_negatives * (ranking_error[i] / false_positives)
        missorted = (quality < quality[i]) * among_positives
        mass = missorted.sum()
        if mass > floor:
            positive_grad[i] -= sorting_error[i]
            positive_grad += missorted * (sorting_error[i] / mass)

    gradient = torch.zeros_like(logits)
    gradient[is_positive] = positive_grad / count
    gradient[relevant] = negative_grad / count
    return Outcome(ranking_error.mean(), sorting_error.mean(), gradient)
