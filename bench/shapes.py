"""Rankings as real heads make them, from initialisation to a trained detector.

M  logits      P  positives
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rst.kernels import SparseTargets

Stage = Literal["initialisation", "early", "late"]


@dataclass(frozen=True)
class Shape:
    """How many positives among how many negatives."""

    positives: int
    negatives: int


SHAPES = {
    "P=5": Shape(5, 1_000_000),
    "RPN, all anchors": Shape(160, 1_070_000),
    "R-CNN": Shape(280, 320_000),
    "P=2000": Shape(2000, 1_000_000),
}
# (mean, standard deviation) of the negatives' and of the positives' logits
STAGES: dict[Stage, tuple[tuple[float, float], tuple[float, float]]] = {
    "initialisation": ((0.0, 0.01), (0.0, 0.01)),
    "early": ((-4.0, 1.0), (-2.0, 1.0)),
    "late": ((-4.0, 1.0), (2.0, 1.0)),
}


@dataclass(frozen=True)
class Sample:
    """One ranking, its targets in both forms."""

    logits: Tensor  # (M,) float32
    dense: Tensor  # (M,) float32
    sparse: SparseTargets


def sample(shape: Shape, stage: Stage, seed: int = 0) -> Sample:
    """Normal logits of that stage; qualities as of assigned anchors, in [0.5, 1)."""
    generator = torch.Generator().manual_seed(seed)
    size = shape.positives + shape.negatives
    (mean, spread), (positive_mean, positive_spread) = STAGES[stage]
    logits = torch.empty(size).normal_(mean, spread, generator=generator)
    index = torch.randperm(size, generator=generator)[: shape.positives].sort().values
    logits[index] = torch.empty(shape.positives).normal_(positive_mean, positive_spread, generator=generator)
    quality = torch.rand(shape.positives, generator=generator) / 2 + 0.5
    dense = torch.zeros(size).index_copy_(0, index, quality)
    return Sample(logits, dense, SparseTargets(index, quality))
