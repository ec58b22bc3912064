"""Where a head's predictions lie in the maps that its convolutions return, so that those are never rearranged.

    n  images    L  levels    A  anchors per cell    H, W  cells of a level    N  anchors of an image, all levels

An anchor's number in its image counts level by level, in a level by (anchor of the cell, y, x). A map with c channels
for each anchor is (n, A c, H, W), the anchor's channels together: what a convolution returns, and what the losses take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MapLayout:
    """The sizes of a pyramid's maps."""

    images: int
    anchors: int  # per cell
    sizes: tuple[tuple[int, int], ...]  # (H, W) of each level

    @classmethod
    def of(cls, maps: Sequence[Tensor], anchors: int) -> "MapLayout":
        """Of maps (n, ..., H, W), whatever their channels."""
        return cls(maps[0].shape[0], anchors, tuple((level.shape[-2], level.shape[-1]) for level in maps))

    def place(self, image: Tensor, anchor: Tensor, channels: int) -> Tensor:
        """Places in the concatenation of the raveled maps.

        Args:
            image: index of the image, (P,) int64.
            anchor: number of the anchor in its image, (P,) int64.
            channels: c of the maps.

        Returns:
            (P, c) int64, of each anchor all its channels.
        """
        area = torch.tensor([height * width for height, width in self.sizes], device=anchor.device)  # (L,)
        end = (self.anchors * area).cumsum(0)
        level = torch.bucketize(anchor, end, right=True)
        area = area[level]
        start = end[level] - self.anchors * area
        in_cell, cell = (anchor - start) // area, (anchor - start) % area
        first = channels * self.images * start + (image * self.anchors + in_cell) * channels * area + cell
        return first[:, None] + torch.arange(channels, device=anchor.device) * area[:, None]
