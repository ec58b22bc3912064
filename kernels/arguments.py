"""From the arguments that all losses share to a ranking ready for evaluation: checks, and the choice of the backend.

P  positives of this process      R  those of all processes of the group      M  logits of this process
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from .autograd import DenseEquations, DenseLoss, RankingLoss
from .backends import BACKENDS, HAS_TRITON, INTERPRETED, AlgorithmName, Backend, BackendName
from .operators import compiled_backend
from .scores import Loss
from .targets import Ranking, SparseTargets, Targets, as_levels, build_ranking, targets_to

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Beyond these float32 over- or underflows in the distances of ordinary logits, measured in deltas.
LEAST_DELTA, MOST_DELTA = 1e-20, 1e20
# What gradients are written in; other dtypes, of eight bits, can be read but not written.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Devices that cannot hold the tables of a ranking, which are float64: their logits are ranked on the CPU.
NO_FLOAT64 = {"mps"}


@dataclass(frozen=True)
class Prepared:
    """One ranking, checked, with the backend that will run it."""

    levels: list[Tensor]  # as handed over, for autograd to see
    ranking: Ranking
    delta: float
    backend: Backend
    dense: bool  # backend "reference": a loss that has dense equations is to evaluate them
    group: "ProcessGroup | None"
    output_device: torch.device

    def evaluate(self, loss: Loss, errors: Tensor | None = None) -> list[Tensor]:
        """The values of the parts of `loss`, () or (S,) each, attached to the graph; `errors` (P,) are for aLRP."""
        values = RankingLoss.apply(loss, self.backend, self.ranking, self.delta, self.group, errors, *self.levels)
        return [value.to(self.output_device) for value in values]

    def evaluate_densely(self, equations: DenseEquations, errors: Tensor | None = None) -> list[Tensor]:
        """The values () or (S,) of dense `equations`, attached to the graph."""
        if self.group is not None:
            raise ValueError("group: backend 'reference' ranks the logits of one process alone")
        return list(DenseLoss.apply(equations, self.ranking, self.delta, errors, *self.levels))


def prepare(
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    delta: float,
    backend: BackendName,
    algorithm: AlgorithmName,
    group: "ProcessGroup | None",
    segments: int | Sequence[int] | None,
) -> Prepared:
    """Checks the arguments that every loss takes; see `rank_sort` for them and the errors."""
    if not torch.compiler.is_compiling() and getattr(torch._C, "_are_functorch_transforms_active", bool)():
        raise RuntimeError(
            "torch.func: its transforms (grad, vmap, ...) cannot enter a ranking loss, which makes its own gradient; "
            "use torch.autograd.grad, and `segments` for one ranking for each sample"
        )
    # by comparisons, which reject NaN too: Dynamo can trace them where delta is symbolic
    if not isinstance(delta, (int, float)) or not (delta == 0 or LEAST_DELTA <= delta <= MOST_DELTA):
        raise ValueError(f"delta: expected 0, or a number from {LEAST_DELTA} to {MOST_DELTA}, got {delta!r}")
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise ValueError(f"group: expected a torch.distributed.ProcessGroup that this process is in, got {group!r}")
    levels = as_levels(logits)
    if levels[0].dtype not in DTYPES:
        raise TypeError(f"logits: expected a float tensor of 16, 32 or 64 bits, got {levels[0].dtype}")
    if not isinstance(targets, (Tensor, SparseTargets, Iterable)):
        raise TypeError(f"targets: expected a tensor, tensors or SparseTargets, got {type(targets).__name__}")
    output_device = levels[0].device
    if output_device.type in NO_FLOAT64:
        levels, targets = [level.cpu() for level in levels], targets_to(targets, "cpu")
    chosen = choose_backend(backend, algorithm, levels[0])
    ranking = build_ranking(levels, targets, segments)
    if chosen == "triton":
        # one algorithm whatever the sizes: a segment gets the bits that a call of its own would give it
        chosen = f"triton, {'breakpoints' if algorithm == 'auto' else algorithm}"
    runs = compiled_backend(chosen, whole=ranking.whole) if torch.compiler.is_compiling() else BACKENDS[chosen]
    return Prepared(levels, ranking, float(delta), runs, chosen == "reference", group, output_device)


def choose_backend(backend: BackendName, algorithm: AlgorithmName, logits: Tensor) -> str:
    """The backend that runs on tensors like `logits`: "triton", "torch" or "reference".

    "auto" takes Triton on GPUs for logits of up to 32 bits and torch operators everywhere else. Raises ValueError
    for a backend that cannot run, or an algorithm that the backend does not have.
    """
    if backend not in ("auto", "triton", "torch", "reference"):
        raise ValueError(f"backend: expected 'auto', 'triton', 'torch' or 'reference', got {backend!r}")
    if algorithm not in ("auto", "tiled", "breakpoints"):
        raise ValueError(f"algorithm: expected 'auto', 'tiled' or 'breakpoints', got {algorithm!r}")
    if backend == "auto":
        runs = HAS_TRITON and logits.device.type in ("cuda", "xpu") and logits.dtype != torch.float64
        backend = "triton" if runs else "torch"
    if backend == "reference" and algorithm != "auto":
        raise ValueError(f"algorithm: backend 'reference' has none to choose from, got {algorithm!r}")
    if backend == "torch" and algorithm == "tiled":
        raise ValueError("algorithm: 'tiled' needs backend 'triton', and this is 'torch'")
    if backend == "triton":
        if not HAS_TRITON:
            raise ValueError("backend: 'triton' needs the package triton, which cannot be imported here")
        if logits.dtype == torch.float64:
            raise ValueError("backend: 'triton' computes in float32 and the logits are float64; use 'torch'")
        if logits.device.type == "cpu" and not INTERPRETED:
            raise ValueError("backend: 'triton' needs logits on a GPU (or TRITON_INTERPRET=1), got cpu")
    return backend
