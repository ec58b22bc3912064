"""YOLACT's masks as a task: sums of an image's prototypes, cut to the box of the object; and its semantic loss.

n  images    T  positives with a mask    t  those that are computed together    M  objects of the batch
k  prototypes    h, w  cells of a prototype    C  classes    H, W  cells of a level
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.masks import combine
from .product_masks import ProductMasks

MARGIN = 1  # cells around the box of an object that its mask may use, as published


@dataclass(frozen=True, eq=False)
class PrototypeMasks(ProductMasks):
    """Mask prediction by prototypes (the maps), cut to the box of the object."""

    boxes: Tensor  # (M, 4) float32 in cells
    kept: Tensor | None = None

    def cross_entropy(self, *, by_size: bool) -> Tensor:
        """() binary cross-entropy, the mean over the masks; 0 without any.

        Of a mask it is the mean over its cells, inside its box or not; `by_size`: the sum over the area of the box,
        which is at least a cell.
        """

        def measure(coefficients: Tensor, prototypes: Tensor, truth: Tensor) -> Tensor:
            logits = combine(coefficients, prototypes)
            entropy = F.binary_cross_entropy_with_logits(logits, self.objects[truth].float(), reduction="none")
            total = entropy.where(self._inside(truth), 0).sum(dim=(1, 2))
            boxes = self.boxes[truth]
            area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1)
            return total / (area if by_size else prototypes[0].numel())

        return self.measured(measure).sum() / max(len(self.truth), 1)

    def predicted(self, coefficients: Tensor, maps: Tensor, truth: Tensor) -> Tensor:
        return super().predicted(coefficients, maps, truth).where(self._inside(truth), 0)

    def _inside(self, truth: Tensor) -> Tensor:
        """Which cells lie in the box of the object or next to it, (t, h, w) bool."""
        height, width = self.objects.shape[1:]
        left, top, right, bottom = self.boxes[truth].unbind(1)
        rows, columns = (torch.arange(size, device=truth.device) for size in (height, width))
        inside = (rows >= top[:, None] - MARGIN) & (rows < bottom[:, None] + MARGIN)  # (t, h)
        across = (columns >= left[:, None] - MARGIN) & (columns < right[:, None] + MARGIN)  # (t, w)
        return inside[:, :, None] & across[:, None]


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
