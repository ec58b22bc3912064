"""Masks that are sums of an image's prototypes: their errors, a few masks at a time.

n  images    T  positives with a mask    t  those that are computed together    M  objects of the batch
k  prototypes    h, w  cells of a prototype    C  classes    H, W  cells of a level
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..geometry.masks import combine_prototypes, paired_dice
from .tasks import DiceTask

# Cells of masks that are computed together: a tensor of them has 32 MiB. A step with more computes them twice, once
# for the loss and once for its gradient, and keeps coefficients and prototypes alone.
CELLS_AT_ONCE = 2**23
MARGIN = 1  # cells around the box of an object that its mask may use, as published

# (coefficients (t, k), prototypes (k, h, w), number of the object (t,)) -> (t,) float32
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PrototypeMasks(DiceTask):
    """Mask prediction by prototypes, cut to the box of the object: errors are 1 - Dice, quality is Dice.

    The positives are in the order of the images.
    """

    coefficients: Tensor  # (T, k)
    prototypes: Tensor  # (n, k, h, w)
    counts: Sequence[int]  # (n,) positives of each image, T in all
    truth: Tensor  # (T,) int64, the object of each positive
    objects: Tensor  # (M, h, w) bool, the masks
    boxes: Tensor  # (M, 4) float32 in cells
    kept: Tensor | None = None

    @cached_property
    def dice(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - a cached property is one
        """Dice coefficient of each predicted mask with its object's, (T,) float32 in [0, 1]."""
        return self._measured(self._dice)

    @property
    def output(self) -> Tensor:
        return self.coefficients

    def cross_entropy(self, *, by_size: bool) -> Tensor:
        """() binary cross-entropy, the mean over the masks; 0 without any.

        Of a mask it is the mean over its cells, inside its box or not; `by_size`: the sum over the area of the box,
        which is at least a cell.
        """

        def measure(coefficients: Tensor, prototypes: Tensor, truth: Tensor) -> Tensor:
            logits = combine_prototypes(coefficients, prototypes)
            entropy = F.binary_cross_entropy_with_logits(logits, self.objects[truth].float(), reduction="none")
            total = entropy.where(self._inside(truth), 0).sum(dim=(1, 2))
            boxes = self.boxes[truth]
            area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1)
            return total / (area if by_size else logits[0].numel() if len(logits) else 1)

        return self._measured(measure).sum() / max(len(self.truth), 1)

    def _dice(self, coefficients: Tensor, prototypes: Tensor, truth: Tensor) -> Tensor:
        predicted = combine_prototypes(coefficients, prototypes).sigmoid().where(self._inside(truth), 0)
        return paired_dice(predicted, self.objects[truth].float())

    def _inside(self, truth: Tensor) -> Tensor:
        """Which cells lie in the box of the object or next to it, (t, h, w) bool."""
        height, width = self.objects.shape[1:]
        left, top, right, bottom = self.boxes[truth].unbind(1)
        rows, columns = (torch.arange(size, device=truth.device) for size in (height, width))
        inside = (rows >= top[:, None] - MARGIN) & (rows < bottom[:, None] + MARGIN)  # (t, h)
        across = (columns >= left[:, None] - MARGIN) & (columns < right[:, None] + MARGIN)  # (t, w)
        return inside[:, :, None] & across[:, None]

    def _measured(self, measure: Measure) -> Tensor:
        """A number of each mask, (T,), computed for a bounded number of them at a time."""
        cells = self.objects.shape[1] * self.objects.shape[2]
        together = max(1, CELLS_AT_ONCE // cells)
        recompute = len(self.truth) > together and torch.is_grad_enabled()
        parts, first = [], 0
        for prototypes, count in zip(self.prototypes, self.counts, strict=True):
            for begin in range(first, first + max(count, 1), together):  # of an image without positives none, in graph
                some = slice(begin, min(begin + together, first + count))
                given = (self.coefficients[some], prototypes, self.truth[some])
                parts.append(
                    checkpoint(measure, *given, use_reentrant=False, preserve_rng_state=False)
                    if recompute
                    else measure(*given)
                )
            first += count
        return torch.cat(parts)


def semantic_cross_entropy(
    logits: Tensor,  # (n, C, H, W)
    masks: Sequence[Tensor],  # per image (G, H, W) bool
    labels: Sequence[Tensor],  # per image (G,) int64
) -> Tensor:
    """() binary cross-entropy of the classes that each cell shows, summed over the classes, the mean over the cells."""
    truth = torch.zeros_like(logits, dtype=torch.float32)
    for of_image, own, label in zip(truth, masks, labels, strict=True):
        of_image.index_add_(0, label, own.float()).clamp_(max=1)
    entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum")
    return entropy * logits.shape[1] / logits.numel()
