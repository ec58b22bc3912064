"""SOLOv2's masks as a task: each positive has a kernel, whose product with the features of its image is its mask.

P  positives of the batch    n  images    G  objects of an image    E  channels of a kernel    h, w  cells of a mask
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..geometry.mask_shapes import dynamic_masks
from ..geometry.masks import PIXELS_AT_ONCE, paired_dice
from .tasks import DiceTask

DICE_FLOOR = 2e-3  # of SOLOv2, in all: 0.001 beside either sum of squares


@dataclass(frozen=True, eq=False)
class DynamicMasks(DiceTask):
    """Masks of whole images: errors are 1 - Dice, quality is the Dice coefficient.

    This task labels the ranking, so it covers every positive, and a cap on their number (`kept`) is not possible: a
    positive without a Dice coefficient has no label. What is bounded is the memory. Up to `PIXELS_AT_ONCE` cells all
    masks are held for the backward pass. Beyond that they are made a part at a time and made again in the backward
    pass: a part has at most as many cells (or is one mask), and of all others only the coefficient is held. The price
    is one more product of kernels and features; values and gradients are the same.

    Kernel, object and coefficient of a positive have one place in their tensors. The published code writes the
    coefficients in the order of the objects to labels in the order of the cells, so that a cell gets the coefficient of
    another as soon as a level has several objects.
    """

    kernels: Tensor  # (P, E), image by image
    features: Tensor  # (n, E, h, w)
    counts: Sequence[int]  # n numbers: positives of each image
    truths: Sequence[Tensor]  # per image (G, h, w) bool, or float32 in [0, 1]
    objects: Tensor  # (P,) int64, the object of each positive in its image

    def __post_init__(self) -> None:
        lengths = {"kernels": len(self.kernels), "counts": sum(self.counts), "objects": len(self.objects)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"DynamicMasks: numbers of positives differ: {lengths}")

    @cached_property
    def dice(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - a cached property is one
        """Dice coefficient of each predicted mask with its object, (P,) float32 in [0, 1]."""
        at_once = max(1, PIXELS_AT_ONCE // self.features[0, 0].numel())
        again = len(self.kernels) > at_once and torch.is_grad_enabled()
        parts = []
        for kernels, features, truths, objects in zip(
            self.kernels.split(list(self.counts)),
            self.features,
            self.truths,
            self.objects.split(list(self.counts)),
            strict=True,
        ):
            for given in zip(kernels.split(at_once), objects.split(at_once), strict=True):
                if again:
                    # no random numbers are drawn, and asking for the generator's state would wait for the device
                    dice = checkpoint(_dice, *given, features, truths, use_reentrant=False, preserve_rng_state=False)
                else:
                    dice = _dice(*given, features, truths)
                parts.append(dice)
        return torch.cat(parts)

    @property
    def output(self) -> Tensor:
        return self.kernels


def _dice(kernels: Tensor, objects: Tensor, features: Tensor, truths: Tensor) -> Tensor:
    return paired_dice(dynamic_masks(kernels, features).sigmoid(), truths[objects].float(), DICE_FLOOR)
