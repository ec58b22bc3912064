"""SOLOv2's masks as a task: each positive has a kernel, whose product with the features of its image is its mask."""

from dataclasses import dataclass
from typing import ClassVar

from .product_masks import ProductMasks


@dataclass(frozen=True, eq=False)
class DynamicMasks(ProductMasks):
    """Masks of whole images, the coefficients of which are kernels and the maps features.

    This task labels the ranking, so it covers every positive, and a cap on their number (`kept`) is not possible: a
    positive without a Dice coefficient has no label.

    Kernel, object and coefficient of a positive have one place in their tensors. The published code writes the Dice
    coefficients in the order of the objects to labels in the order of the cells, so that a cell gets that of another as
    soon as a level has several objects.
    """

    cells_at_once: ClassVar[int] = 2**25  # a tensor of them has 128 MiB
    floor: ClassVar[float] = 2e-3  # of SOLOv2, in all: 0.001 beside either sum of squares
