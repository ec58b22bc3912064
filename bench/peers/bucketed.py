"""Bucketed Rank & Sort: Yavuz, Cam, Dogan, Akbas, Kalkan, "Bucketed Ranking-based Losses", ECCV 2024.

    M  logits    P  positives    R  visible negatives    B  buckets with members, at most P + 1

All logits are sorted. The negatives between two consecutive positives are a bucket. A bucket is replaced by one
prototype: the mean of its logits, with the number of members as its weight. The members share the prototype's gradient.
For delta = 0 without ties this equals Rank & Sort (their theorem 4.1). But H has its kinks at s_i - delta and
s_i + delta, while the buckets end at s_i: for delta > 0 it is another loss, close to Rank & Sort for many positives.

In its favour: the means are one segmented reduction, not one mean and one wait for the device per bucket. The positives
are placed among the sorted negatives by a binary search and not sorted with them.
"""

import torch
from torch import Tensor

from .equations import MASS_FLOOR, Outcome, among_positives, step

MATRICES = 4  # P x P or P x B in float32, alive at once


def bucketed(logits: Tensor, targets: Tensor, delta: float = 0.5) -> Outcome:
    """O((M + P) log M + P^2) time; O(M + P^2) memory, for large M mostly the int64 order of the sort."""
    is_positive = targets > 0
    positives, quality = logits[is_positive], targets[is_positive]
    count = len(positives)
    lowest = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
    ordered, order = torch.where(targets == 0, logits, lowest).sort()  # all but negatives come first, and are cut off
    edges = positives.sort().values
    # a negative that ties with a positive lands in the bucket below it
    first = torch.searchsorted(ordered, edges[:1] - delta)
    cuts = torch.searchsorted(ordered, edges, right=True).clamp(min=int(first))
    sizes = torch.cat([first, cuts, first.new_tensor([len(ordered)])]).diff()  # (P + 1,)
    relevant = ordered[int(first) :]
    prototypes = torch.segment_reduce(relevant, "mean", lengths=sizes, unsafe=True)  # unsafe: lengths are not checked
    filled = sizes > 0
    prototypes, sizes = prototypes[filled], sizes[filled]

    above = step(prototypes[None, :] - positives[:, None], delta)  # (P, B)
    false_positives = above @ sizes.to(above.dtype)
    among = among_positives(positives, quality, delta)
    ranking_error = false_positives / (among.rank + false_positives)
    outranked = false_positives > MASS_FLOOR
    weights = torch.where(outranked, ranking_error / false_positives.clamp(min=MASS_FLOOR), 0)
    charged = weights @ above / count  # (B,), for each member

    gradient = torch.zeros_like(logits)
    gradient.index_copy_(0, order[int(first) :], charged.repeat_interleave(sizes, output_size=len(relevant)))
    gradient[is_positive] = (among.sorting_grad - torch.where(outranked, ranking_error, 0)) / count
    return Outcome(ranking_error.mean(), among.sorting_error.mean(), gradient)


def bucketed_bytes(positives: int) -> int:
    """Bytes of the matrices that are alive at once."""
    return MATRICES * 4 * positives * (positives + 1)
