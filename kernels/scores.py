"""The algebra of the losses between count and scatter: everything here has the size of the positives.

    P  positives      l_R, S  ranking and sorting error (P,)      w  what a positive spreads over what outranks it (P,)

A loss is a score: it turns what the count found into errors, and errors into weights for the scatter.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import SortingSums
from .reference import MASS_FLOOR


class RankSortScores(NamedTuple):
    """Errors and update weights of the Rank & Sort loss, all (P,) and not yet divided by P."""

    ranking_error: Tensor  # l_R(i) = N_FP / rank
    negative_weight: Tensor  # what i adds to the gradient of a negative j, before H(x_ij): l_R / N_FP = 1 / rank
    ranking_promotion: Tensor  # l_R where somebody outranks i, else 0
    sorting_error: Tensor  # S(i) = l_S - l_S*, >= 0
    sorting_promotion: Tensor  # S where somebody outranks i wrongly, else 0
    sorting_spread: Tensor  # S / D, what i adds to the gradient of a missorted positive, before H


def rank_sort_scores(false_positives: Tensor, sums: SortingSums) -> RankSortScores:
    """Equations 7, 8 and 10 from the false positives (P,) float64 and the sums among positives (P,).

    The sorting error is l_S - l_S* over one denominator. With C the mass of those rightly above i and D that of the
    missorted, both differences of means reduce to distances in quality from i:

        S = (deficit * C + surplus * D) / (C * (C + D))

    in which every term is >= 0: no cancellation, and exactly 0 where nothing is missorted.
    """
    better, missorted, deficit, surplus = (term.double() for term in sums)
    rank = better + missorted + false_positives
    outranked = false_positives > MASS_FLOOR
    ranking_error = false_positives / rank
    sorting_error = (deficit * better + surplus * missorted) / (better * (better + missorted))
    wrong = missorted > MASS_FLOOR
    zero = torch.zeros_like(rank)
    return RankSortScores(
        ranking_error=ranking_error,
        negative_weight=torch.where(outranked, 1 / rank, zero),
        ranking_promotion=torch.where(outranked, ranking_error, zero),
        sorting_error=sorting_error,
        sorting_promotion=torch.where(wrong, sorting_error, zero),
        sorting_spread=torch.where(wrong, sorting_error / missorted.clamp(min=MASS_FLOOR), zero),
    )
