"""From the arguments that all losses share to a ranking that is ready to be evaluated: checks, and which code runs.

P  positives      M  all logits of one ranking
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from .autograd import DenseEquations, DenseLoss, RankingLoss, Score
from .backends import AlgorithmName, BackendName, choose_backend
from .group import Shared
from .operators import Passes
from .targets import Examples, Masses, SparseTargets, Targets, as_levels, flatten_examples, targets_to

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# What gradients are written in; others, of eight bits, can be read but not written.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Devices that cannot hold the tables of a ranking, which are float64: their logits are ranked on the CPU.
NO_FLOAT64 = {"mps"}


@dataclass(frozen=True)
class Prepared:
    """One ranking, checked, with the backend that will run it."""

    levels: list[Tensor]  # as handed over, for autograd to see
    examples: Examples
    delta: float
    backend: str  # a key of `BACKENDS`
    shared: Shared
    home: torch.device  # where the caller wants the values

    def evaluate(self, score: Score, parts: int) -> tuple[list[Tensor], Masses]:
        """The values () of the so many `parts` of `score`, attached to the graph, and the masses it was given, (R,)."""
        *values, false_positives, true_positives = RankingLoss.apply(
            score, parts, Passes(self.backend), self.examples, self.delta, self.shared, *self.levels
        )
        return [value.to(self.home) for value in values], Masses(false_positives, true_positives)

    def evaluate_densely(self, equations: DenseEquations) -> list[Tensor]:
        """The values () of dense `equations`, attached to the graph."""
        if self.shared.group is not None:
            raise ValueError("group: backend 'reference' ranks the logits of one process alone")
        return list(DenseLoss.apply(equations, self.examples, self.delta, *self.levels))


def prepare(
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    delta: float,
    backend: BackendName,
    algorithm: AlgorithmName,
    group: "ProcessGroup | None",
) -> Prepared:
    """Checks what every loss takes; see `rank_sort` for the arguments and the errors."""
    if not (isinstance(delta, (int, float)) and math.isfinite(delta) and delta >= 0):
        raise ValueError(f"delta: expected a finite number >= 0, got {delta!r}")
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise ValueError(f"group: expected a torch.distributed.ProcessGroup that this process is in, got {group!r}")
    levels = as_levels(logits)
    if levels[0].dtype not in DTYPES:
        raise TypeError(f"logits: expected a float tensor of 16, 32 or 64 bits, got {levels[0].dtype}")
    if not isinstance(targets, (Tensor, SparseTargets, Iterable)):
        raise TypeError(f"targets: expected a tensor, tensors or SparseTargets, got {type(targets).__name__}")
    choose_backend(backend, algorithm, levels[0], 0, 0)  # before anything is computed
    home = levels[0].device
    if home.type in NO_FLOAT64:
        levels, targets = [level.cpu() for level in levels], targets_to(targets, "cpu")
    examples = flatten_examples(levels, targets)
    shared = Shared(group, len(examples.index), levels[0].device)
    size = sum(level.numel() for level in levels)
    chosen = choose_backend(backend, algorithm, levels[0], shared.total, size)
    return Prepared(levels, examples, float(delta), chosen, shared, home)
