"""Masks that are products: each positive has coefficients, each image maps, and a mask is their sum, a few at a time.

n  images    T  positives with a mask    t  those that are computed together    M  objects of the batch
E  coefficients of a positive, maps of an image    h, w  cells of a mask
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..geometry.masks import DICE_FLOOR, combine, paired_dice
from .tasks import DiceTask

# (coefficients (t, E), maps (E, h, w), number of the object (t,)) -> (t,) float32
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ProductMasks(DiceTask):
    """Masks of whole images: errors are 1 - Dice, quality is the Dice coefficient.

    The memory is bounded. Up to `cells_at_once` cells all masks are held for the backward pass. Beyond that they are
    made a part at a time and made again in the backward pass: a part has at most as many cells (or is one mask), and of
    all others only the coefficient is held. The price is one more product; values and gradients are the same.

    Raises:
        ValueError: for numbers of positives that differ.
    """

    coefficients: Tensor  # (T, E), image by image
    maps: Tensor  # (n, E, h, w)
    counts: Sequence[int]  # n numbers: positives of each image, T in all
    truth: Tensor  # (T,) int64, the object of each positive
    objects: Tensor  # (M, h, w) their masks, bool, or float32 in [0, 1]

    cells_at_once: ClassVar[int] = 2**23  # a tensor of them has 32 MiB
    floor: ClassVar[float] = DICE_FLOOR  # see `paired_dice`

    def __post_init__(self) -> None:
        numbers = {"coefficients": len(self.coefficients), "counts": sum(self.counts), "truth": len(self.truth)}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"{type(self).__name__}: numbers of positives differ: {numbers}")

    @cached_property
    def dice(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - a cached property is one
        return self.measured(self._dice)

    @property
    def output(self) -> Tensor:
        return self.coefficients

    def predicted(self, coefficients: Tensor, maps: Tensor, truth: Tensor) -> Tensor:
        """The probabilities of some masks of one image, (t, h, w) float32; `truth` names their objects."""
        return combine(coefficients, maps).sigmoid()

    def measured(self, measure: Measure) -> Tensor:
        """A number of each mask, (T,), computed for a bounded number of them at a time."""
        together = max(1, self.cells_at_once // self.maps[0, 0].numel())
        again = len(self.truth) > together and torch.is_grad_enabled()
        parts = []
        for coefficients, maps, truth in zip(
            self.coefficients.split(list(self.counts)), self.maps, self.truth.split(list(self.counts)), strict=True
        ):
            # of an image without positives one part of no masks, in the graph
            for own, objects in zip(coefficients.split(together), truth.split(together), strict=True):
                if again:
                    # no random numbers are drawn, and asking for the generator's state would wait for the device
                    part = checkpoint(measure, own, maps, objects, use_reentrant=False, preserve_rng_state=False)
                else:
                    part = measure(own, maps, objects)
                parts.append(part)
        return torch.cat(parts)

    def _dice(self, coefficients: Tensor, maps: Tensor, truth: Tensor) -> Tensor:
        return paired_dice(self.predicted(coefficients, maps, truth), self.objects[truth].float(), self.floor)
