"""What positives do to positives: sorting sums and sorting update, in torch operators, a block of rows at a time.

    P  positives, by descending quality      i  rows, j  columns of the pair matrix
    s  logits      y  qualities              H  the step

The sorting error needs [y_j >= y_i] beside H, a dominance in two dimensions, so every pair is looked at; P is 10^2 to
10^4. In the order of quality the bracket is the same for most of a block of rows, and only H costs anything. O(P^2)
time, O(P) memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .torch_step import squash_infinities

# Pairs of one block: a megabyte in float32, so that the passes over it stay in cache.
PAIRS = 1 << 18


class SortingSums(NamedTuple):
    """Per positive i, sums over the positives j, all (P,); every term of every sum is >= 0, so nothing cancels."""

    better: Tensor  # sum H(x_ij) [y_j >= y_i]: the mass rightly above i, with the self pair, which counts H(0)
    missorted: Tensor  # sum H(x_ij) [y_j < y_i]: the mass of those that should be below, D_i
    deficit: Tensor  # sum H(x_ij) max(y_i - y_j, 0)
    surplus: Tensor  # sum H(x_ij) max(y_j - y_i, 0)


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    """The sums (P,) behind equations 7 and 8, for `positives` and `quality` (P,) of one float dtype, in any order."""
    order = quality.argsort(descending=True)
    logits, ordered = squash_infinities(positives, positives, delta)[order], quality[order]
    sums = torch.empty((4, len(order)), dtype=positives.dtype, device=positives.device)
    for rows, left, right in _blocks(ordered):
        own = ordered[rows]
        relation = _relation(logits[rows], logits, delta)
        gain = ordered[left:right] - own[:, None]
        middle = relation[:, left:right]
        better = middle * (gain >= 0)
        missorted = middle - better
        # left of the middle y_j >= y_first >= y_i, right of it y_j < y_last <= y_i: there the sums over j part from i
        above, below = relation[:, :left], relation[:, right:]
        mass_above, mass_below = above.sum(1), below.sum(1)
        first, last = own[0], own[-1]
        surplus = above.mul_(ordered[:left] - first).sum(1) + (first - own) * mass_above
        deficit = below.mul_(last - ordered[right:]).sum(1) + (own - last) * mass_below
        sums[0, rows] = better.sum(1) + mass_above
        sums[1, rows] = missorted.sum(1) + mass_below
        sums[2, rows] = deficit - missorted.mul_(gain).sum(1)
        sums[3, rows] = surplus + better.mul_(gain).sum(1)
    return SortingSums(*torch.empty_like(sums).index_copy_(1, order, sums))


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """Per positive i the sum over k of spread_k H(x_ki) [y_i < y_k], (P,): what those that it wrongly outranks push it
    down by.

    `spread` (P,) is the sorting error of k over its missorted mass, S_k / D_k (Eq. 12, second part).
    """
    order = quality.argsort(descending=True)
    logits, ordered, spread = squash_infinities(positives, positives, delta)[order], quality[order], spread[order]
    demotion = torch.zeros_like(logits)
    for rows, left, right in _blocks(ordered):
        # nobody left of the middle is of lesser quality than anyone in these rows
        relation = _relation(logits[rows], logits[left:], delta).mul_(spread[rows, None])
        relation[:, : right - left] *= ordered[left:right] < ordered[rows, None]
        demotion[left:] += relation.sum(0)
    return torch.empty_like(demotion).index_copy_(0, order, demotion)


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    """Per positive i the sum over the positives j of H(s_j - s_i) values_j, (P,) float64, with the self pair.

    `values` and `positives` are (P,), of one float dtype.
    """
    logits = squash_infinities(positives, positives, delta)
    weighed = torch.empty_like(logits)
    height = max(PAIRS // max(len(logits), 1), 1)
    for begin in range(0, len(logits), height):
        rows = slice(begin, begin + height)
        weighed[rows] = _relation(logits[rows], logits, delta).mul_(values).sum(1)
    return weighed.double()


def _blocks(quality: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Rows i by descending quality, and the columns' parts: all better before `left`, all worse from `right` on."""
    size = len(quality)
    height = max(PAIRS // max(size, 1), 1)
    for begin in range(0, size, height):
        rows = slice(begin, min(begin + height, size))
        left, right = 0, size
        if quality.device.type == "cpu":  # elsewhere the look would be a host sync
            ascending = -quality
            bounds = torch.stack([ascending[rows.start], ascending[rows.stop - 1]])
            left, right = torch.searchsorted(ascending, bounds, right=True).tolist()
        yield rows, left, right


def _relation(lower: Tensor, upper: Tensor, delta: float) -> Tensor:
    """H(upper_j - lower_i) (len(lower), len(upper)) for finite logits, in as few passes as torch allows."""
    difference = upper - lower[:, None]
    if delta == 0:
        return (difference >= 0).to(difference.dtype)
    half = difference.new_full((), 0.5)
    return torch.add(half, difference, alpha=1 / (2 * delta), out=difference).clamp_(0, 1)
