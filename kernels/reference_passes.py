"""The passes of `passes.py`, dense: for tests, and to try a new score on few logits.

R  positives of the ranking      n  logits of one level      M  all logits; O(R M) memory
"""

import torch
from torch import Tensor

from .passes import Masses, SortingSums
from .places import is_ignored
from .targets import Ranking
from .torch_chunks import masses_of_nothing
from .torch_step import pairwise_step


def count(positives: Tensor, own: Tensor, ranking: Ranking, delta: float) -> Masses:
    if len(positives) == 0:
        return masses_of_nothing(positives, ranking)
    by_level = [
        _step(positives, level, ignore, delta).sum(1, dtype=torch.float64)
        for level, ignore in ranking.levels_with_ignores()
    ]
    every = torch.stack(by_level).sum(0)
    true_positives = pairwise_step(positives, own, delta).sum(1, dtype=torch.float64)
    taken_out = _step(positives, own, ranking.masked, delta).sum(1, dtype=torch.float64)
    poison = 0 * every.sum()
    false_positives = every - taken_out + poison
    return Masses(false_positives, true_positives + poison, 0 * false_positives.sum())


def scatter(
    weights: Tensor, positives: Tensor, ranking: Ranking, delta: float, poison: Tensor, *, reuse: object | None = None
) -> Tensor:
    del reuse
    flat, parts = ranking.new_gradient()
    for (level, ignore), part in zip(ranking.levels_with_ignores(), parts, strict=True):
        part.copy_(weights @ _step(positives, level, ignore, delta).double() + poison)
        if ignore is not None:
            part.masked_fill_(is_ignored(ignore), 0)
    return flat


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    step = pairwise_step(positives, positives, delta)
    gain = quality - quality[:, None]
    better = (step * (gain >= 0)).sum(1)
    missorted = (step * (gain < 0)).sum(1)
    return SortingSums(better, missorted, (step * (-gain).clamp(min=0)).sum(1), (step * gain.clamp(min=0)).sum(1))


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    return spread @ (pairwise_step(positives, positives, delta) * (quality < quality[:, None]))


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    return (pairwise_step(positives, positives, delta) @ values).double()


def _step(positives: Tensor, logits: Tensor, ignore: Tensor | None, delta: float) -> Tensor:
    """H (R, n), 0 for an ignored logit."""
    logits = logits.to(positives.dtype)
    if ignore is not None:
        logits = logits.masked_fill(is_ignored(ignore), 0)
    step = pairwise_step(positives, logits, delta)
    return step if ignore is None else step.masked_fill(is_ignored(ignore), 0)
