"""The inputs of one call with several rankings, for tests of segments and of padding.

P  positives      M  logits
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rst.kernels import SparseTargets, alrp, average_precision, rank_sort, ranking_loss


@dataclass(frozen=True)
class Call:
    """The inputs of one call, on one device."""

    levels: list[Tensor]
    index: Tensor
    quality: Tensor
    error: Tensor
    masks: list[Tensor]

    def parts(self, loss: str, targets=None, **more) -> tuple[list[Tensor], list[Tensor]]:
        """The values of the parts of a loss, and the gradients of the levels and of the errors, each part weighted."""
        levels = [level.clone().requires_grad_() for level in self.levels]
        error = self.error.clone().requires_grad_()
        targets = SparseTargets(self.index, self.quality, self.masks) if targets is None else targets
        if loss == "alrp":
            more["localisation_error"] = error
        values = PARTS[loss](levels, targets, **more)
        weights = (1.0, 2.0)
        sum(weight * value.sum() for weight, value in zip(weights, values, strict=False)).backward()
        return [value.detach() for value in values], [*(level.grad for level in levels), error.grad]


def own_score(counts) -> Tensor:
    """Reads everything that a score can read."""
    weighed = counts.weigh(counts.quality) + counts.sorting_sums().surplus.double()
    return counts.false_positives / (counts.false_positives + counts.true_positives) + 0.1 * weighed * counts.quality


PARTS = {
    "rank_sort": lambda *given, **more: list(rank_sort(*given, **more)),
    "average_precision": lambda *given, **more: [average_precision(*given, **more)],
    "alrp": lambda *given, **more: list(alrp(*given, **more)),
    "ranking_loss": lambda *given, **more: [ranking_loss(own_score, *given, **more)],
}


def call(sizes: list[int], positives: int, device: str, dtype: torch.dtype = torch.float32, ties: bool = False) -> Call:
    generator = torch.Generator().manual_seed(sum(sizes) + positives)
    total = sum(sizes)
    logits = 2 * torch.randn(total, generator=generator)
    logits = (4 * logits).round() / 4 if ties else logits
    index = torch.randperm(total, generator=generator)[:positives]
    quality, error = torch.rand(2, positives, generator=generator)
    mask = torch.rand(total, generator=generator) < 0.2
    levels = [level.to(device, dtype) for level in logits.split(sizes)]
    return Call(
        levels, index.to(device), quality.to(device), error.to(device), [m.to(device) for m in mask.split(sizes)]
    )
