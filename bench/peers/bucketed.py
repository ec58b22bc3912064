"""Bucketed Rank & Sort: Yavuz, Cam, Dogan, Akbas, Kalkan, "Bucketed Ranking-based Losses", ECCV 2024.

M  logits      P  positives      R  negatives that some positive can see      B  buckets with members, <= P + 1

All logits are sorted, the negatives between two consecutive positives make a bucket, and a bucket takes part as one
prototype: the mean of its logits, counted as often as it has members. What the prototype is charged, its members share.
That equals Rank & Sort for delta = 0 without ties (their theorem 4.1). H bends at s_i - delta and s_i + delta, though,
and the buckets are cut at s_i: for delta > 0 it is another loss, close by where positives are many.

Favours to it: the means are one segmented reduction instead of one mean and one wait for the device per bucket, and the
positives are put among the sorted negatives by a binary search instead of being sorted with them.
"""

import torch
from torch import Tensor

from .equations import MASS_FLOOR, Outcome, among_positives, step

MATRICES = 4  # P x P or P x B in float32 that are alive at once, at the most


def bucketed(logits: Tensor, targets: Tensor, delta: float = 0.5) -> Outcome:
    """O((M + P) log M + P^2) time; O(M + P^2) memory, of which the sort's int64 order is the largest for large M."""
    is_positive = targets > 0
    positives, quality = logits[is_positive], targets[is_positive]
    count = len(positives)
    lowest = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
    ordered, order = torch.where(targets == 0, logits, lowest).sort()  # what is no negative comes first, and is cut
    edges = positives.sort().values
    # a negative that ties with a positive lands in the bucket below it
    first = torch.searchsorted(ordered, edges[:1] - delta)
    cuts = torch.searchsorted(ordered, edges, right=True).clamp(min=int(first))
    sizes = torch.cat([first, cuts, first.new_tensor([len(ordered)])]).diff()  # (P + 1,)
    relevant = ordered[int(first) :]
    prototypes = torch.segment_reduce(relevant, "mean", lengths=sizes, unsafe=True)  # unsafe: lengths are not looked at
    filled = sizes > 0
    prototypes, sizes = prototypes[filled], sizes[filled]

    above = step(prototypes[None, :] - positives[:, None], delta)  # (P, B)
    false_positives = above @ sizes.to(above.dtype)
    among = among_positives(positives, quality, delta)
    ranking_error = false_positives / (among.rank + false_positives)
    outranked = false_positives > MASS_FLOOR
    weights = torch.where(outranked, ranking_error / false_positives.clamp(min=MASS_FLOOR), 0)
    charged = weights @ above / count  # (B,), to each member

    gradient = torch.zeros_like(logits)
    gradient.index_copy_(0, order[int(first) :], charged.repeat_interleave(sizes, output_size=len(relevant)))
    gradient[is_positive] = (among.sorting_grad - torch.where(outranked, ranking_error, 0)) / count
    return Outcome(ranking_error.mean(), among.sorting_error.mean(), gradient)


def bucketed_bytes(positives: int) -> int:
    """Bytes of the matrices that are alive at once."""
    return MATRICES * 4 * positives * (positives + 1)
