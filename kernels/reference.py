"""The paper's equations, dense and in any float dtype: the truth that every other file is tested against.

    P  positives                      M  logits of one ranking (positives, negatives and ignored)
    s  logits (M,)                    y  qualities of the positives (P,), IoU or Dice in [0, 1]
    x_ij = s_j - s_i                  H  the step, smoothed over [-delta, delta]

Everything here takes O(P * M) memory and nothing is differentiable by autograd, on purpose: the gradient of a ranking
loss is the Identity Update of section 3.2, not the derivative of its value.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .relations import pairwise_step

# An error that nothing outranks has nobody to be spread over: below this mass it makes no update (published code).
MASS_FLOOR = 1e-10


class DenseRankSort(NamedTuple):
    """Values and updates of the Rank & Sort loss, its two parts apart."""

    ranking: Tensor  # () mean ranking error, in [0, 1)
    sorting: Tensor  # () mean sorting error, in [0, 1)
    ranking_grad: Tensor  # (M,) Identity Update of `ranking`
    sorting_grad: Tensor  # (M,) Identity Update of `sorting`, zero outside the positives


def dense_rank_sort(
    logits: Tensor,  # (M,) float
    index: Tensor,  # (P,) int64, the positives' places in `logits`
    quality: Tensor,  # (P,) float
    ignore: Tensor,  # (M,) bool
    delta: float,
) -> DenseRankSort:
    """Equations 6 to 12 of the paper, term by term, in the dtype of `logits`.

    A NaN among the logits that are not ignored, or among the qualities, makes both values and every gradient that is
    not ignored NaN.
    """
    count = len(index)
    is_positive = torch.zeros_like(logits, dtype=torch.bool).index_fill_(0, index, True)
    ignored = ignore & ~is_positive
    negative = ~is_positive & ~ignored
    if logits[~ignored].isnan().any() or quality.isnan().any():
        gradient = torch.where(ignored, 0.0, torch.nan).to(logits)
        return DenseRankSort(gradient.new_tensor(torch.nan), gradient.new_tensor(torch.nan), gradient, gradient.clone())
    if count == 0:
        zero = torch.zeros_like(logits)
        return DenseRankSort(zero.new_zeros(()), zero.new_zeros(()), zero, zero.clone())

    positives = logits[index]
    quality = quality.to(logits.dtype)
    among_positives = pairwise_step(positives, positives, delta)  # (P, P) H(x_ij)
    over_negatives = pairwise_step(positives, logits[negative], delta)  # (P, N)

    # Eq. 7: ranking error
    false_positives = over_negatives.sum(1)
    rank_among_positives = among_positives.sum(1)
    rank = rank_among_positives + false_positives
    ranking_error = false_positives / rank
    # Eq. 7 and 8: current and target sorting error
    inverted = 1 - quality
    better = (quality[None, :] >= quality[:, None]).to(logits.dtype)  # [y_j >= y_i]
    current = (among_positives * inverted).sum(1) / rank_among_positives
    target = (among_positives * better * inverted).sum(1) / (among_positives * better).sum(1)
    sorting_error = current - target

    # Eq. 10: both pmfs; Eq. 11 and 12: the updates
    outranked = (false_positives > MASS_FLOOR).to(logits.dtype)
    ranking_pmf = over_negatives / false_positives.clamp(min=MASS_FLOOR)[:, None]
    missorted = among_positives * (1 - better)  # (P, P) H(x_ij) [y_j < y_i]
    missorted_mass = missorted.sum(1)
    sorted_wrongly = (missorted_mass > MASS_FLOOR).to(logits.dtype)
    sorting_pmf = missorted / missorted_mass.clamp(min=MASS_FLOOR)[:, None]

    ranking_grad = torch.zeros_like(logits)
    ranking_grad[negative] = (ranking_error * outranked) @ ranking_pmf / count
    ranking_grad[index] = -ranking_error * outranked / count
    sorting_grad = torch.zeros_like(logits)
    demotion = (sorting_error * sorted_wrongly) @ sorting_pmf
    sorting_grad[index] = (demotion - sorting_error * sorted_wrongly) / count
    return DenseRankSort(ranking_error.mean(), sorting_error.mean(), ranking_grad, sorting_grad)
