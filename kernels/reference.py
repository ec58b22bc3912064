"""The losses' equations, dense and in any float dtype: all other files are tested against them.

    P  positives                      M  logits of one ranking (positives, negatives and ignored)
    s  logits (M,)                    y  qualities of the positives (P,), IoU or Dice in [0, 1]
    x_ij = s_j - s_i                  H  the step, smoothed over [-delta, delta]

Everything here takes O(P * M) memory and nothing is differentiable by autograd, on purpose: the gradient of a ranking
loss is the Identity Update of section 3.2, not the derivative of its value.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .torch_step import MASS_FLOOR, pairwise_step


class DensePart(NamedTuple):
    """One part of a loss: its value and its Identity Update."""

    value: Tensor  # () in [0, 1)
    gradient: Tensor  # (M,)


def _undefined_parts(
    parts: int, logits: Tensor, index: Tensor, quality: Tensor, ignored: Tensor
) -> list[DensePart] | None:
    """The parts where the equations are undefined: NaN after a NaN (0 at ignored logits), 0 without positives."""
    if logits[~ignored].isnan().any() or quality.isnan().any():
        gradient = torch.where(ignored, 0.0, torch.nan).to(logits)
        return [DensePart(gradient.new_tensor(torch.nan), gradient.clone()) for _ in range(parts)]
    if len(index) == 0:
        return [DensePart(logits.new_zeros(()), torch.zeros_like(logits)) for _ in range(parts)]
    return None


def _negatives(index: Tensor, ignored: Tensor) -> Tensor:
    return (~ignored).index_fill(0, index, False)


def dense_rank_sort(
    logits: Tensor,  # (M,) float
    index: Tensor,  # (P,) int64, positions in `logits`
    quality: Tensor,  # (P,) float
    ignore: Tensor,  # (M,) bool; a positive is never ignored
    delta: float,
) -> list[DensePart]:
    """Ranking and sorting part of the Rank & Sort loss: equations 6 to 12 of the paper, term by term."""
    ignored = ignore.index_fill(0, index, False)
    if undefined := _undefined_parts(2, logits, index, quality, ignored):
        return undefined
    quality = quality.to(logits.dtype)
    count = len(index)
    negative = _negatives(index, ignored)
    positives = logits[index]
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

    # Eq. 10: both distributions; Eq. 11 and 12: the updates
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
    return [DensePart(ranking_error.mean(), ranking_grad), DensePart(sorting_error.mean(), sorting_grad)]


def dense_average_precision(
    logits: Tensor, index: Tensor, quality: Tensor, ignore: Tensor, delta: float
) -> list[DensePart]:
    """AP loss, one positive after another, with the interpolation of the published code; qualities do not matter.

    Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", CVPR 2019.
    """
    ignored = ignore.index_fill(0, index, False)
    if undefined := _undefined_parts(1, logits, index, quality, ignored):
        return undefined
    count = len(index)
    negative = _negatives(index, ignored)
    positives, negatives = logits[index], logits[negative]
    gradient = torch.zeros_like(logits)
    spread = torch.zeros_like(negatives)
    total = logits.new_zeros(())
    highest = logits.new_zeros(())
    for i in positives.argsort().tolist():
        among_positives = pairwise_step(positives[i, None], positives, delta)[0]
        among_positives[i] = 1
        over_negatives = pairwise_step(positives[i, None], negatives, delta)[0]
        rank = among_positives.sum() + over_negatives.sum()
        precision = among_positives.sum() / rank
        if highest <= precision:
            highest, weight = precision, 1 / rank
        else:
            weight = (1 - highest) / (1 - precision) / rank
        total += highest
        gradient[index[i]] = -(1 - highest)
        spread += weight * over_negatives
    gradient[negative] = spread
    return [DensePart(1 - total / count, gradient / count)]


def dense_alrp(
    logits: Tensor, index: Tensor, quality: Tensor, ignore: Tensor, delta: float, localisation_error: Tensor
) -> list[DensePart]:
    """Classification part of aLRP loss (Oksuz et al., NeurIPS 2020); `localisation_error` (P,) of the positives."""
    ignored = ignore.index_fill(0, index, False)
    if undefined := _undefined_parts(1, logits, index, quality, ignored):
        return undefined
    count = len(index)
    negative = _negatives(index, ignored)
    positives = logits[index]
    among_positives = pairwise_step(positives, positives, delta).fill_diagonal_(0)
    over_negatives = pairwise_step(positives, logits[negative], delta)
    false_positives = over_negatives.sum(1)
    rank = 1 + among_positives.sum(1) + false_positives
    error = (among_positives @ localisation_error.to(logits.dtype) + false_positives) / rank
    error = torch.where(false_positives > 1e-5, error, 0 * error)  # published
    gradient = torch.zeros_like(logits)
    gradient[index] = -error / count
    gradient[negative] = error @ (over_negatives / false_positives.clamp(min=1e-5)[:, None]) / count
    return [DensePart((false_positives / rank).mean(), gradient)]
