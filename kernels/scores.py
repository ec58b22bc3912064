"""The algebra of the losses between count and scatter: everything here has the size of the positives.

    P  positives of the call, those of all processes      l  errors (P,)      w  weights (P,) for the scatter

A loss is a score: it turns the sums of the count into errors, and the errors into weights for the scatter. It does not
know which backend counts. `triton_scores.py` is the same for Triton.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .passes import ScorePasses, SortingSums
from .torch_step import MASS_FLOOR, self_pair

# Reciprocal ranks are added in whole units: the sum is the same in any order, also on a GPU.
RANK_UNITS = float(1 << 40)


@dataclass(frozen=True)
class Counts:
    """The input of a score, one entry for each positive; H counts a tie as 1/2, for a hard step as 1."""

    false_positives: Tensor  # (P,) float64, N_FP(i): sum of H(s_j - s_i) over the negatives j
    true_positives: Tensor  # (P,) float64, the same over the positives j, with the self pair: rank+ of the paper
    logits: Tensor  # (P,) float32 or float64
    quality: Tensor  # (P,) of the logits' dtype
    delta: float
    passes: ScorePasses
    segment: Tensor | None = None  # (P,) int64, the ranking of each positive, S for padding; None: there is but one
    segment_number: int = 1  # S

    @property
    def self_pair(self) -> float:
        """H(0), which each positive adds to its own `true_positives`."""
        return self_pair(self.delta)

    @property
    def segments(self) -> list[Tensor | None]:
        """The positives of each segment (p,) int64; None: all of them."""
        if self.segment is None:
            return [None]
        return [(self.segment == number).nonzero().squeeze(1) for number in range(self.segment_number)]

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


class Loss(NamedTuple):
    """A loss as the backends take it. A name stands for a score that Triton has a kernel for."""

    name: Literal["rank_sort", "average_precision", "alrp"] | None
    score: Callable[..., tuple[Update, ...] | Update | Tensor]  # of the counts; of aLRP also of errors (P,) float64
    updates: int  # how many it returns; a score of the caller's own may return errors instead of an update

    def updates_of(self, counts: Counts, localisation_error: Tensor | None) -> tuple[Update, ...]:
        """The updates of the score, where there are positives."""
        result = self.score(counts) if localisation_error is None else self.score(counts, localisation_error)
        if isinstance(result, Tensor):
            return (spread_error(result.detach().double(), counts),)
        return (result,) if isinstance(result, Update) else result


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
    interpolated = torch.zeros_like(error)
    for rows in counts.segments:
        order = counts.logits.argsort() if rows is None else rows[counts.logits[rows].argsort()]
        # starts at recall 0, with error 1: torch cannot trace a cummin over a tensor that may be empty
        ascending = torch.cat([error.new_ones(1), error[order]])
        interpolated = interpolated.index_copy(0, order, ascending.cummin(0).values[1:])
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


def alrp_charge(counts: Counts) -> Tensor:
    """The gradient of aLRP's localisation part with respect to each localisation error, (P,) float64.

    That part is the mean over the positives k of the sum of the errors ranked at or above k, over rank_k. So the charge
    of j is the sum of 1 / rank_k over j itself and the positives k below it, over the number of positives. Each tie
    counts half: the mean over all orders in which a sort could put tied logits.
    """
    rank = counts.true_positives + (1 - counts.self_pair) + counts.false_positives
    charge = torch.zeros_like(rank)
    for rows in counts.segments:
        logits, ranks = (counts.logits, rank) if rows is None else (counts.logits[rows], rank[rows])
        ascending, order = logits.sort()
        shares = (RANK_UNITS / ranks[order]).round().long()
        below = torch.cat([shares.new_zeros(1), shares.cumsum(0)])
        before = torch.searchsorted(ascending, ascending)
        after = torch.searchsorted(ascending, ascending, right=True)
        charges = (below[before] + below[after] + shares).double() / (2 * RANK_UNITS * max(len(logits), 1))
        charge = charge.index_copy(0, order if rows is None else rows[order], charges)
    return charge + 0 * rank  # whole units would lose a NaN
