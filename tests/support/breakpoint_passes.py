"""The two passes of the breakpoints algorithm, called as a loss calls them: for its tests, where Triton runs.

    P  positives      M  logits      R  positives of several processes

A pass starts from a ranking. Positives of other processes come from rankings of their own.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from rank_sort_cases import INTERPRETED, Ranking
from torch import Tensor

from rst.kernels import on_triton, triton_breakpoints
from rst.kernels.group import Group
from rst.kernels.passes import Masses
from rst.kernels.segments import cut_levels
from rst.kernels.targets import Ranking as KernelRanking
from rst.kernels.targets import SparseTargets, build_ranking
from rst.kernels.triton_order import _gather
from rst.kernels.triton_pieces import pieces_of
from rst.kernels.triton_scans import build_profile
from rst.kernels.triton_tables import Tables

DEVICE = "cpu" if INTERPRETED else "cuda"


class Together(Group):
    """A group of processes whose rankings are all known here: what process `rank` gathers is computed, not sent."""

    def __init__(self, rankings: Sequence[KernelRanking], rank: int) -> None:
        super().__init__(None, len(rankings[rank].index), rankings[rank].index.device)
        self.positives = [len(ranking.index) for ranking in rankings]
        begin = sum(self.positives[:rank])
        self.own = slice(begin, begin + self.positives[rank])
        self.keys, _, self.quality = (
            torch.cat(each)
            for each in zip(*(_gather(ranking, pieces_of(ranking), 1) for ranking in rankings), strict=True)
        )

    def gather(self, values: Tensor) -> Tensor:
        return self.keys if values.dtype == torch.int64 else self.quality


def prepared(ranking: Ranking, split: tuple[int, ...] = ()) -> KernelRanking:
    """The ranking as the backends take it, with levels split at `split`."""
    bounds = [0, *split, len(ranking.logits)]
    levels = [ranking.logits[begin:end].to(DEVICE) for begin, end in pairwise(bounds)]
    labels = [ranking.targets[begin:end].to(DEVICE) for begin, end in pairwise(bounds)]
    return build_ranking(levels, labels)


def positives_of(ranking: KernelRanking) -> Tensor:
    """The logits (P,) of the positives."""
    return torch.cat(ranking.levels)[ranking.index].float()


def of_positives(positives: Tensor) -> KernelRanking:
    """A ranking of nothing but positives."""
    index = torch.arange(len(positives), device=DEVICE)
    return build_ranking([positives.to(DEVICE)], SparseTargets(index, torch.full_like(positives, 0.5).to(DEVICE)))


def negatives_alone(logits: Tensor) -> KernelRanking:
    """A ranking without a positive of this process; other processes may have some."""
    nothing = torch.empty(0, device=DEVICE)
    return KernelRanking([logits.to(DEVICE)], nothing.long(), nothing, [None], cut_levels([len(logits)], None))


def count(
    ranking: KernelRanking,
    delta: float,
    others: Sequence[KernelRanking] = (),
    later: Sequence[KernelRanking] = (),
) -> Masses:
    """The masses (R,) of the positives of the `others`, of this ranking and of `later` ones, in this order."""
    return counted(ranking, delta, others, later)[0]


def counted(
    ranking: KernelRanking,
    delta: float,
    others: Sequence[KernelRanking] = (),
    later: Sequence[KernelRanking] = (),
) -> tuple[Masses, Tables]:
    """The same, and the tables that the pass leaves behind."""
    group = Together([*others, ranking, *later], len(others))
    found = on_triton.count("breakpoints", ranking, group, delta)
    masses = on_triton.masses_of(found, delta).masses
    size = group.total
    return Masses(masses[:size], masses[size : 2 * size], masses[2 * size]), found.tables


def scatter(
    weights: Tensor,  # (R,) float64
    ranking: KernelRanking,
    delta: float,
    others: Sequence[KernelRanking] = (),
    poison: float = 0.0,
) -> Tensor:
    """The gradient (M,) of all logits, as if the positives among them were negatives."""
    _, tables = counted(ranking, delta, others)
    size = tables.positives
    tables.doubles[3 * size : 4 * size] = weights[tables.order.long()]
    tables.singles[-1] = poison
    profile = torch.empty(4 * (2 * size + 1), device=DEVICE)
    # so many processes cancel the mean over the positives: the weights are used as they are
    build_profile(tables, torch.ones((), device=DEVICE), max(size, 1), profile, delta)
    gradients = [torch.empty_like(level) for level in ranking.levels]
    triton_breakpoints.scatter(tables, pieces_of(ranking), profile, gradients, delta)
    return torch.cat(gradients)


def weights_of(ranking: KernelRanking) -> Tensor:
    """Any weights (P,) for the scatter."""
    return torch.rand(len(ranking.index), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def both_passes(ranking: Ranking, split: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Masses (2, P) and the gradient (M,)."""
    made = prepared(ranking, split)
    return torch.stack(count(made, ranking.delta)[:2]), scatter(weights_of(made), made, ranking.delta)
