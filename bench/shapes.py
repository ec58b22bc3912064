"""Rankings like those of real heads, from initialisation to a trained detector.

    M  logits    P  positives    N  negatives

The heads are those of the Rank & Sort paper, with 4 images of 1333 x 800 pixels per process. The numbers of positives
follow its table 10.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rst.kernels import SparseTargets

Stage = Literal["initialisation", "early", "late"]


@dataclass(frozen=True)
class Shape:
    """The size of a ranking."""

    positives: int
    negatives: int

    def __str__(self) -> str:
        return f"{self.negatives + self.positives:,} logits, {self.positives:,} positives"


# The shapes that goals and tests name
RPN, RCNN, LVIS_RCNN, ATSS = "RPN, all anchors", "R-CNN, 80 classes", "LVIS R-CNN", "ATSS / PAA"
DETR = "DETR decoder"
MILLION, TWENTY_MILLION = "P 2,000, N 1 M", "P 2,000, N 20 M"
SHAPES = {
    RPN: Shape(160, 1_070_000),
    RCNN: Shape(280, 320_000),
    "Cascade R-CNN stage": Shape(1000, 640_000),
    LVIS_RCNN: Shape(460, 4_800_000),
    "LVIS RPN": Shape(300, 1_070_000),
    ATSS: Shape(1500, 21_400_000),
    DETR: Shape(30, 96_000),
    "pixels, P 5,000": Shape(5000, 100_000),
    "pixels, P 20,000": Shape(20_000, 100_000),
    MILLION: Shape(2000, 1_000_000),
    TWENTY_MILLION: Shape(2000, 20_000_000),
}
SWEEP_STAGE: Stage = (
    "early"  # positives and negatives overlap; most negatives are within delta of a positive, or above one
)
SWEEP_POSITIVES = [Shape(positives, 1_000_000) for positives in (1, 5, 20, 100, 500, 2000, 5000, 20_000)]
SWEEP_NEGATIVES = [Shape(1500, negatives) for negatives in (10_000, 100_000, 1_000_000, 5_000_000, 20_000_000)]

# (mean, standard deviation) of the negatives' and of the positives' logits
STAGES: dict[Stage, tuple[tuple[float, float], tuple[float, float]]] = {
    "initialisation": ((0.0, 0.01), (0.0, 0.01)),
    "early": ((-4.0, 1.0), (-2.0, 1.0)),
    "late": ((-4.0, 1.0), (2.0, 1.0)),
}


@dataclass(frozen=True)
class Sample:
    """One ranking, with its targets in every form that contenders need."""

    logits: Tensor  # (M,) float32
    dense: Tensor  # (M,) float32: the quality of a positive, 0 of a negative
    labels: Tensor  # (M,) float32: 1 or 0
    sparse: SparseTargets
    visible: int  # negatives no more than delta = 0.5 below the lowest positive

    @property
    def pairs(self) -> int:
        """Pairs of a positive and a logit whose comparison may be more than 0."""
        positives = len(self.sparse.index)
        return positives * (positives + self.visible)


def sample(shape: Shape, stage: Stage, device: torch.device | str = "cpu", seed: int = 0) -> Sample:
    """Normally distributed logits of that stage; qualities in [0.5, 1). The same values on every device."""
    generator = torch.Generator().manual_seed(seed)
    size = shape.positives + shape.negatives
    (mean, spread), (positive_mean, positive_spread) = STAGES[stage]
    logits = torch.empty(size).normal_(mean, spread, generator=generator)
    index = _indices(size, shape.positives, generator)
    positives = torch.empty(shape.positives).normal_(positive_mean, positive_spread, generator=generator)
    logits[index] = positives
    quality = torch.rand(shape.positives, generator=generator) / 2 + 0.5
    dense = torch.zeros(size).index_copy_(0, index, quality)
    visible = int((logits >= positives.amin() - 0.5).sum()) - shape.positives
    return Sample(
        logits.to(device),
        dense.to(device),
        (dense > 0).float().to(device),
        SparseTargets(index.to(device), quality.to(device)),
        visible,
    )


def _indices(size: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` distinct indices below `size`, ascending, without a permutation of all where `count` is small."""
    if 4 * count > size:
        return torch.randperm(size, generator=generator)[:count].sort().values
    drawn = torch.randint(size, (2 * count,), generator=generator).unique()
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]].sort().values
