"""What positives do to positives: the sorting sums and the sorting update, in torch operators, a block of rows at a time.

    P  positives, by ascending logit      B  rows of one block
    s  logits      y  qualities           H  the step

The sorting error needs [y_j >= y_i] beside H, a dominance in two dimensions, so every pair is looked at; P is 10^2 to
10^4. O(P^2) time, O(P) memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .relations import pairwise_step

# Pairs of one block: a megabyte in float32, so that the dozen passes over it stay in cache.
PAIRS = 1 << 18


class SortingSums(NamedTuple):
    """Per positive i, sums over the positives j, all (P,); every term of every sum is >= 0, so nothing cancels."""

    better: Tensor  # sum H(x_ij) [y_j >= y_i]: the mass rightly above i, with the self pair, which counts H(0)
    missorted: Tensor  # sum H(x_ij) [y_j < y_i]: the mass of those that should be below, D_i
    deficit: Tensor  # sum H(x_ij) max(y_i - y_j, 0)
    surplus: Tensor  # sum H(x_ij) max(y_j - y_i, 0)


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    """The sums (P,) behind equations 7 and 8, for `positives` and `quality` (P,) of one float dtype, in any order."""
    rows = []
    for _, _, relation, gain in _blocks(positives, quality, delta):
        rows.append(
            torch.stack(
                [
                    (relation * (gain >= 0)).sum(1),
                    (relation * (gain < 0)).sum(1),
                    (relation * (-gain).clamp_(min=0)).sum(1),
                    (relation * gain.clamp_(min=0)).sum(1),
                ]
            )
        )
    order = positives.argsort()
    sums = torch.empty((4, len(positives)), dtype=positives.dtype, device=positives.device)
    if rows:
        sums[:, order] = torch.cat(rows, 1)
    return SortingSums(*sums)


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """Per positive the sum over k of spread_k H(x_ki) [y_i < y_k], (P,): what those it wrongly outranks push it down by.

    `spread` (P,) is the sorting error of k over its missorted mass, S_k / D_k (Eq. 12, second part).
    """
    order = positives.argsort()
    demotion = torch.zeros_like(positives)
    ordered = spread[order]
    for rows, first, relation, gain in _blocks(positives, quality, delta):
        demotion[first:] += (relation * (gain < 0) * ordered[rows, None]).sum(0)
    return torch.empty_like(demotion).index_copy_(0, order, demotion)


def _blocks(positives: Tensor, quality: Tensor, delta: float) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """Blocks of rows i by ascending logit: (rows, first column, H(x_ij), y_j - y_i), columns j from the first one on.

    Columns further left have H = 0 for the whole block; on a CPU they are left out.
    """
    order = positives.argsort()
    logits, quality = positives[order], quality[order]
    begin = 0
    while begin < len(logits):
        first = 0
        if logits.device.type == "cpu":  # elsewhere the look would be a host sync
            # a whole delta further down than needed, so that no rounding can cut a pair off
            first = int(torch.searchsorted(logits, logits[begin] - 2 * delta - 1e-3 * logits[begin].abs()))
            first = min(first, begin)
        end = min(begin + max(PAIRS // (len(logits) - first), 1), len(logits))
        rows = slice(begin, end)
        relation = pairwise_step(logits[rows], logits[first:], delta)
        yield rows, first, relation, quality[None, first:] - quality[rows, None]
        begin = end
