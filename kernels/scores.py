"""The algebra of the losses between count and scatter: everything here has the size of the positives.

    P  positives of the ranking, those of all its processes      l  errors (P,)      w  weights (P,) for the scatter

A loss is a score: it turns the sums of the count into errors, and the errors into weights for the scatter. It does not
know which backend counts.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .passes import PairPasses, SortingSums
from .torch_step import MASS_FLOOR, self_pair


@dataclass(frozen=True)
class Counts:
    """The input of a score, one entry for each positive; H counts a tie as 1/2, for a hard step as 1."""

    false_positives: Tensor  # (P,) float64, N_FP(i): sum of H(s_j - s_i) over the negatives j
    true_positives: Tensor  # (P,) float64, the same over the positives j, with the self pair: rank+ of the paper
    logits: Tensor  # (P,) float32 or float64
    quality: Tensor  # (P,) of the logits' dtype
    delta: float
    passes: PairPasses

    @property
    def self_pair(self) -> float:
        """H(0), which each positive adds to its own `true_positives`."""
        return self_pair(self.delta)

    def weigh(self, values: Tensor) -> Tensor:
        """Sum over the positives j of H(s_j - s_i) values_j for `values` (P,), with the self pair: (P,) float64."""
        return self.passes.weigh_positives(values.to(self.logits.dtype), self.logits, self.delta)

    def sorting_sums(self) -> SortingSums:
        """Sums of H over the positives of better and of lesser quality, (P,) each."""
        return self.passes.sorting_sums(self.logits, self.quality, self.delta)


class Update(NamedTuple):
    """One part of a loss and its Identity Update, (P,) float64 each and not yet divided by P."""

    error: Tensor  # its mean is the value of the part
    promotion: Tensor  # i itself gets the gradient -promotion_i
    negative_weight: Tensor | None  # i adds it, times H(s_j - s_i), to the gradient of a negative j
    positive_weight: Tensor | None = None  # the same for a positive j of lesser quality


def spread_error(error: Tensor, counts: Counts, floor: float = MASS_FLOOR, *, reported: Tensor | None = None) -> Update:
    """The Identity Update of section 3.2 (Eq. 5): each positive's error (P,) is spread over the negatives above it.

    Negative j gets l(i) H(s_j - s_i) / N_FP(i) from positive i, and i gets -l(i), so that all gradients sum to 0.
    Where N_FP is not above `floor`, there is no negative to receive the error, and no update. `reported` is the error
    that the value shows, where it differs.
    """
    outranked = counts.false_positives > floor
    zero = torch.zeros_like(error)
    weight = torch.where(outranked, error / counts.false_positives.clamp(min=floor), zero)
    return Update(error if reported is None else reported, torch.where(outranked, error, zero), weight)


def ranking_error(counts: Counts) -> Tensor:
    """l_R of Eq. 7, N_FP / rank: (P,) float64 in [0, 1)."""
    return counts.false_positives / (counts.true_positives + counts.false_positives)


def rank_sort_updates(counts: Counts) -> tuple[Update, Update]:
    """Ranking and sorting part of the Rank & Sort loss, equations 7, 8 and 10.

    The sorting error is l_S - l_S* over one denominator. With C the mass rightly above i and D the missorted mass, both
    differences of means reduce to distances in quality from i:

        S = (deficit * C + surplus * D) / (C * (C + D))

    in which every term is >= 0: no cancellation, and exactly 0 where nothing is missorted.
    """
    better, missorted, deficit, surplus = (term.double() for term in counts.sorting_sums())
    sorting_error = (deficit * better + surplus * missorted) / (better * (better + missorted))
    wrong = missorted > MASS_FLOOR
    zero = torch.zeros_like(sorting_error)
    sorting = Update(
        error=sorting_error,
        promotion=torch.where(wrong, sorting_error, zero),
        negative_weight=None,
        positive_weight=torch.where(wrong, sorting_error / missorted.clamp(min=MASS_FLOOR), zero),
    )
    return spread_error(ranking_error(counts), counts), sorting


def average_precision_updates(counts: Counts) -> tuple[Update]:
    """AP loss: 1 - precision at each positive, the precision interpolated.

    The self pair counts 1, whatever H(0) is. Interpolation replaces a precision by the largest at equal or higher
    recall; on errors it is the smallest so far from the lowest-scored positive upwards, which never subtracts from 1.
    """
    true_positives = counts.true_positives + (1 - counts.self_pair)
    error = counts.false_positives / (true_positives + counts.false_positives)
    order = counts.logits.argsort()
    # starts at recall 0, with error 1: torch cannot trace a cummin over a tensor that may be empty
    ascending = torch.cat([error.new_ones(1), error[order]])
    interpolated = torch.empty_like(error).scatter_(0, order, ascending.cummin(0).values[1:])
    return (spread_error(interpolated, counts),)


def alrp_updates(counts: Counts, localisation_error: Tensor) -> tuple[Update]:
    """Classification part of aLRP loss: false positives and the localisation errors (P,) of the positives above.

    The value shows the precision error alone, as published; the update carries both, without i's own localisation
    error, which is its target.
    """
    floor = 1e-5  # published
    true_positives = counts.true_positives + (1 - counts.self_pair)
    rank = true_positives + counts.false_positives
    localisation = counts.weigh(localisation_error) - counts.self_pair * localisation_error
    error = (counts.false_positives + localisation) / rank
    return (spread_error(error, counts, floor, reported=counts.false_positives / rank),)
