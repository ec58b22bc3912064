"""The tree over pairs of positives on Triton, for one ranking in any order: the passes as torch's backend has them.

R  positives
"""

import torch
from torch import Tensor

from rst.kernels.passes import SortingSums
from rst.kernels.triton_pairs_tree import sorting_demotion_sorted, sorting_sums_sorted, weigh_sorted


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    ascending, order, begin, end = _one_ranking(positives)
    sums = sorting_sums_sorted(ascending, quality[order], begin, end, delta)
    return SortingSums(*torch.empty_like(sums).index_copy_(1, order, sums))


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    ascending, order, begin, end = _one_ranking(positives)
    demotion = sorting_demotion_sorted(spread[order], ascending, quality[order], begin, end, delta)
    return torch.empty_like(demotion).index_copy_(0, order, demotion)


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    ascending, order, begin, end = _one_ranking(positives)
    weighed = weigh_sorted(values[order], ascending, begin, end, delta)
    return torch.empty_like(weighed).index_copy_(0, order, weighed).double()


def _one_ranking(positives: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # stable, so that equal logits are added in the same order each time
    ascending, order = positives.sort(stable=True)
    begin = torch.zeros(len(order), dtype=torch.int32, device=order.device)
    return ascending, order, begin, torch.full_like(begin, len(order))
