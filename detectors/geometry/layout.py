"""Where the predictions of a head lie in the maps that its convolutions return. So the maps are never rearranged.

    n  images    L  levels    A  anchors per cell    H, W  cells of a level    N  anchors of an image, all levels

The number of an anchor in its image counts level by level, and in a level by (anchor of the cell, y, x). A map with c
channels for each anchor is (n, A c, H, W), the channels of an anchor together: what a convolution returns, and what the
losses take.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .transfers import constant

PADDING = 32  # pixels: the sides of an image in a batch are multiples of this


def padded_sizes(image_sizes: Sequence[tuple[int, int]], divisible: int = PADDING) -> list[tuple[int, int]]:
    """Height and width of each image padded on its own, before the batch's largest pads it further; pixels."""
    return [
        (math.ceil(height / divisible) * divisible, math.ceil(width / divisible) * divisible)
        for height, width in image_sizes
    ]


@dataclass(frozen=True)
class MapLayout:
    """The sizes of the maps of a pyramid."""

    images: int
    anchors: int  # per cell
    sizes: tuple[tuple[int, int], ...]  # (H, W) of each level

    @classmethod
    def of(cls, maps: Sequence[Tensor], anchors: int) -> "MapLayout":
        """Of maps (n, ..., H, W) with any number of channels."""
        return cls(maps[0].shape[0], anchors, tuple((level.shape[-2], level.shape[-1]) for level in maps))

    @cached_property
    def counts(self) -> list[int]:
        """L numbers: anchors of an image in each level."""
        return [self.anchors * height * width for height, width in self.sizes]

    def by_anchor(
        self,
        level: Tensor,  # (n, A c, H, W)
    ) -> Tensor:
        """A view (n, A, c, H W) of a map."""
        return level.unflatten(1, (self.anchors, -1)).flatten(3)

    def level_of(
        self,
        anchor: Tensor,  # (P,) int64, number of the anchor in its image
    ) -> Tensor:
        """The place of each anchor's level in the pyramid, (P,) int64 from 0."""
        return torch.bucketize(anchor, constant(self.counts, anchor.dtype, anchor.device).cumsum(0), right=True)

    def place(self, image: Tensor, anchor: Tensor, channels: int) -> Tensor:
        """Places in the concatenation of the raveled maps.

        Args:
            image: index of the image, (P,) int64.
            anchor: number of the anchor in its image, (P,) int64.
            channels: c of the maps.

        Returns:
            (P, c) int64, all channels of each anchor.
        """
        area = constant([height * width for height, width in self.sizes], anchor.dtype, anchor.device)  # (L,)
        end = (self.anchors * area).cumsum(0)
        level = torch.bucketize(anchor, end, right=True)
        area = area[level]
        start = end[level] - self.anchors * area
        in_cell, cell = (anchor - start) // area, (anchor - start) % area
        first = channels * self.images * start + (image * self.anchors + in_cell) * channels * area + cell
        return first[:, None] + torch.arange(channels, device=anchor.device) * area[:, None]
