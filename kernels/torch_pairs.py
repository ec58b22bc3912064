"""The passes over pairs of positives (`passes.PairPasses`) in torch operators, a block of rows at a time.

    R  positives of the ranking, by descending quality      i  rows, j  columns of the pair matrix
    s  logits      y  qualities      H  the step

The sorting error needs [y_j >= y_i] besides H, a comparison in two dimensions. Up to `MANY` positives every pair is
visited: O(R^2) time, O(R) memory. In the order of quality the bracket is constant over most of a block of rows, and
only H takes time. Above, `torch_pairs_tree.py` has the same sums in O(R log R). `triton_pairs.py` is the same for
Triton.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import torch_pairs_tree
from .passes import SortingSums
from .torch_step import replace_infinities

# Pairs of one block: a megabyte in float32, which stays in cache.
PAIRS = 1 << 18
# Above so many positives the tree is faster: measured on one core of an EPYC, forward and backward, with random logits
# and qualities. (With ten different qualities it is so from 1400 on, for weighing alone from 1000 on.)
MANY = 2000


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    if len(positives) > MANY:
        return torch_pairs_tree.sorting_sums(positives, quality, delta)
    order = quality.argsort(descending=True)
    logits, ordered = replace_infinities(positives, positives, delta)[order], quality[order]
    sums = torch.empty((4, len(order)), dtype=positives.dtype, device=positives.device)
    for rows, left, right in _blocks(ordered):
        own = ordered[rows]
        step = _step(logits[rows], logits, delta)
        gain = ordered[left:right] - own[:, None]
        middle = step[:, left:right]
        better = middle * (gain >= 0)
        missorted = middle - better
        # Left of the middle block y_j >= y_first >= y_i, right of it y_j < y_last <= y_i: there |y_j - y_i| is the sum
        # of a term of j and a term of i.
        above, below = step[:, :left], step[:, right:]
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
    if len(positives) > MANY:
        return torch_pairs_tree.sorting_demotion(spread, positives, quality, delta)
    order = quality.argsort(descending=True)
    logits, ordered, spread = replace_infinities(positives, positives, delta)[order], quality[order], spread[order]
    demotion = torch.zeros_like(logits)
    for rows, left, right in _blocks(ordered):
        # left of the middle block no positive has a lower quality than these rows
        step = _step(logits[rows], logits[left:], delta).mul_(spread[rows, None])
        step[:, : right - left] *= ordered[left:right] < ordered[rows, None]
        demotion[left:] += step.sum(0)
    return torch.empty_like(demotion).index_copy_(0, order, demotion)


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    if len(positives) > MANY:
        return torch_pairs_tree.weigh_positives(values, positives, delta)
    logits = replace_infinities(positives, positives, delta)
    weighed = torch.empty_like(logits)
    height = max(PAIRS // max(len(logits), 1), 1)
    for begin in range(0, len(logits), height):
        rows = slice(begin, begin + height)
        weighed[rows] = _step(logits[rows], logits, delta).mul_(values).sum(1)
    return weighed.double()


def _blocks(quality: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Blocks of rows by descending quality, as (rows, left, right).

    For every row of the block, all columns before `left` are as good or better, all from `right` on worse.
    """
    size = len(quality)
    height = max(PAIRS // max(size, 1), 1)
    for begin in range(0, size, height):
        rows = slice(begin, min(begin + height, size))
        left, right = 0, size
        if quality.device.type == "cpu":  # on other devices reading the bounds would be a host sync
            ascending = -quality
            bounds = torch.stack([ascending[rows.start], ascending[rows.stop - 1]])
            left, right = torch.searchsorted(ascending, bounds, right=True).tolist()
        yield rows, left, right


def _step(lower: Tensor, upper: Tensor, delta: float) -> Tensor:
    """H(upper_j - lower_i) (len(lower), len(upper)) for finite logits.

    Unlike `pairwise_step` it does not handle infinities and NaN, and takes three operators.
    """
    difference = upper - lower[:, None]
    if delta == 0:
        return (difference >= 0).to(difference.dtype)
    half = difference.new_full((), 0.5)
    return torch.add(half, difference, alpha=1 / (2 * delta), out=difference).clamp_(0, 1)
