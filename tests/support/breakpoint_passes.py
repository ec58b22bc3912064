"""The two passes of the breakpoints algorithm, called as a loss calls them: for its tests, where Triton runs.

R  rows      P  positives      M  logits
"""

from itertools import pairwise

import torch
from rank_sort_cases import INTERPRETED, Ranking
from torch import Tensor

from rst.kernels import triton_breakpoints as breakpoints
from rst.kernels.targets import Examples, flatten_examples

DEVICE = "cpu" if INTERPRETED else "cuda"


def examples_of(ranking: Ranking, split: tuple[int, ...] = ()) -> tuple[Tensor, Examples]:
    """(rows, examples) on the device, with the logits split into levels at the places in `split`."""
    bounds = [0, *split, len(ranking.logits)]
    levels = [ranking.logits[begin:end].to(DEVICE) for begin, end in pairwise(bounds)]
    labels = [ranking.targets[begin:end].to(DEVICE) for begin, end in pairwise(bounds)]
    examples = flatten_examples(levels, labels)
    return torch.cat(levels)[examples.index].float(), examples


def scatter(weights: Tensor, rows: Tensor, examples: Examples, delta: float, poison: float = 0.0) -> Tensor:
    """The gradient (M,), written over NaN so that an entry left out cannot hide."""
    out = torch.cat(examples.levels).fill_(torch.nan)
    breakpoints.scatter_to_logits(weights, rows, examples, delta, out, torch.tensor(poison, device=DEVICE))
    return out


def weights_of(rows: Tensor) -> Tensor:
    """What the rows spread, any numbers."""
    return torch.rand(len(rows), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def both_passes(ranking: Ranking, split: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Masses (2, P) and the gradient (M,)."""
    rows, examples = examples_of(ranking, split)
    masses = breakpoints.count(rows, rows, examples, ranking.delta)
    return torch.stack(masses), scatter(weights_of(rows), rows, examples, ranking.delta)


def negatives_alone(logits: Tensor) -> Examples:
    """Examples without a positive, as a process may have them whose neighbours have some."""
    return Examples([logits.to(DEVICE)], torch.empty(0, dtype=torch.int64), torch.empty(0), [None])
