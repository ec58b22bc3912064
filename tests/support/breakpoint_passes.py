"""The two passes of the breakpoints algorithm, called as a loss calls them: for its tests, where Triton runs.

P  positives      M  logits
"""

from itertools import pairwise

import torch
from rank_sort_cases import INTERPRETED, Ranking
from torch import Tensor

from rst.kernels import triton_breakpoints as breakpoints
from rst.kernels.targets import Ranking as KernelRanking
from rst.kernels.targets import build_ranking

DEVICE = "cpu" if INTERPRETED else "cuda"


def positives_of(ranking: Ranking, split: tuple[int, ...] = ()) -> tuple[Tensor, KernelRanking]:
    """The logits (P,) of the positives, and the ranking as the passes take it, with levels split at `split`."""
    bounds = [0, *split, len(ranking.logits)]
    levels = [ranking.logits[begin:end].to(DEVICE) for begin, end in pairwise(bounds)]
    labels = [ranking.targets[begin:end].to(DEVICE) for begin, end in pairwise(bounds)]
    prepared = build_ranking(levels, labels)
    return torch.cat(levels)[prepared.index].float(), prepared


def scatter(weights: Tensor, positives: Tensor, prepared: KernelRanking, delta: float, poison: float = 0.0) -> Tensor:
    """The gradient (M,)."""
    return breakpoints.scatter(weights, positives, prepared, delta, torch.tensor(poison, device=DEVICE))


def weights_of(positives: Tensor) -> Tensor:
    """Any weights (P,) for the scatter."""
    return torch.rand(len(positives), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def both_passes(ranking: Ranking, split: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Masses (2, P) and the gradient (M,)."""
    positives, prepared = positives_of(ranking, split)
    masses = breakpoints.count(positives, positives, prepared, ranking.delta)
    return torch.stack(masses[:2]), scatter(weights_of(positives), positives, prepared, ranking.delta)


def negatives_alone(logits: Tensor) -> KernelRanking:
    """A ranking without a positive of this process; other processes may have some."""
    return KernelRanking([logits.to(DEVICE)], torch.empty(0, dtype=torch.int64), torch.empty(0), [None])
