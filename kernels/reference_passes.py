"""The passes of a backend, dense: slow twins with the same signatures, for tests and for a score's first trials.

R  positives asked about      P  positives of the examples      M  all logits; O(R * M) memory
"""

import torch
from torch import Tensor

from .targets import Examples, Masses, is_ignored
from .torch_pairs import SortingSums
from .torch_step import pairwise_step


def count(rows: Tensor, own: Tensor, examples: Examples, delta: float) -> Masses:
    """See `portable.count`."""
    by_level = [_relation(rows, level, ignore, delta).sum(1, dtype=torch.float64) for level, ignore in examples.pairs()]
    every = torch.stack(by_level).sum(0)
    among = pairwise_step(rows, own, delta).sum(1, dtype=torch.float64)
    taken_out = _relation(rows, own, examples.masked, delta).sum(1, dtype=torch.float64)
    poison = 0 * every.sum()
    return Masses(every - taken_out + poison, among + poison)


def scatter_to_logits(
    weights: Tensor, rows: Tensor, examples: Examples, delta: float, out: Tensor, poison: Tensor
) -> None:
    """See `portable.scatter_to_logits`."""
    parts = out.split([level.numel() for level in examples.levels])
    for (level, ignore), part in zip(examples.pairs(), parts, strict=True):
        part.copy_(weights @ _relation(rows, level, ignore, delta).double() + poison)
        if ignore is not None:
            part.masked_fill_(is_ignored(ignore), 0)


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    """See `pairs.sorting_sums`."""
    relation = pairwise_step(positives, positives, delta)
    gain = quality - quality[:, None]
    better = (relation * (gain >= 0)).sum(1)
    missorted = (relation * (gain < 0)).sum(1)
    return SortingSums(
        better, missorted, (relation * (-gain).clamp(min=0)).sum(1), (relation * gain.clamp(min=0)).sum(1)
    )


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """See `pairs.sorting_demotion`."""
    return spread @ (pairwise_step(positives, positives, delta) * (quality < quality[:, None]))


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    """See `pairs.weigh_positives`."""
    return (pairwise_step(positives, positives, delta) @ values).double()


def _relation(rows: Tensor, logits: Tensor, ignore: Tensor | None, delta: float) -> Tensor:
    """H (R, n), 0 for what is ignored."""
    logits = logits.to(rows.dtype)
    if ignore is not None:
        logits = logits.masked_fill(is_ignored(ignore), 0)
    relation = pairwise_step(rows, logits, delta)
    return relation if ignore is None else relation.masked_fill(is_ignored(ignore), 0)
