"""Diagnostics of a head in a training step besides its losses; never part of the objective.

    P  positives of the batch

All values are detached 0-d tensors on the device of the logits; nothing here waits for that device. NaN stands for "no
value in this step".
"""

import torch
from torch import Tensor

# The correlation of two positives is always 1 or -1.
MIN_CORRELATED = 3


def spearman(
    first: Tensor,  # (P,)
    second: Tensor,  # (P,)
) -> Tensor:
    """Spearman's rank correlation in [-1, 1], () float64: Pearson's of the ranks, equal values sharing their mean rank.

    NaN for fewer than three pairs, and where all values of either are equal.
    """
    if len(first) < MIN_CORRELATED:
        return torch.full((), torch.nan, dtype=torch.float64, device=first.device)
    a, b = centred_ranks(first), centred_ranks(second)
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def centred_ranks(values: Tensor) -> Tensor:
    """The ranks of values (P,) less their mean, (P,) float64; equal values get the mean of their ranks."""
    ordered = values.detach().sort().values
    below = torch.searchsorted(ordered, values.detach(), right=False)
    not_above = torch.searchsorted(ordered, values.detach(), right=True)
    return 0.5 * (below + not_above - len(values)).double()  # the mean rank, from 1, is (below + 1 + not_above) / 2


@torch.no_grad()
def head_statistics(
    negatives: Tensor,  # () integer
    scores: Tensor,  # (P,)
    quality: Tensor,  # (P,)
    **values: Tensor,
) -> dict[str, Tensor]:
    """The statistics of one head, float64.

    Args:
        negatives: logits of the batch that are neither positive nor ignored.
        scores: of each positive, the score of its ground truth's class, or anything that grows with it.
        quality: of each positive, how well it is localised (the IoU of its predicted box, say).
        values: further statistics, () each, that need a positive.

    Returns:
        "positives", "negatives" and, NaN without positives, "negatives_per_positive" (Table 10 of the paper),
        "spearman" (of `scores` and `quality`; NaN below three positives) and `values`.
    """
    positives = torch.full((), len(scores), dtype=torch.float64, device=scores.device)
    conditional = {"negatives_per_positive": negatives / positives, "spearman": spearman(scores, quality), **values}
    if len(scores) == 0:
        conditional = {name: torch.full_like(positives, torch.nan) for name in conditional}
    counts = {"positives": positives, "negatives": negatives}
    return {name: value.detach().double() for name, value in {**counts, **conditional}.items()}
