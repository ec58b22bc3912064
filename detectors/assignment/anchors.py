"""Anchors of a feature pyramid, and which of them lie outside an image of a padded batch.

    n  images    A  anchors per cell    H, W  cells of a level    N  anchors of an image, all levels

The order inside a level is (anchor of the cell, y, x): that of a convolution's output, so logits are never permuted.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ..features.inputs import padded_sizes


class AnchorGenerator(TorchvisionAnchorGenerator):
    """Float anchors centred at (x * stride, y * stride), never rounded, at strides that are given and not guessed.

    torchvision rounds the cell anchors, infers the stride from the sizes of image and map (wrong on P6 where P5 has an
    odd side), and takes the maps' dtype, which is bfloat16 under autocast.

    Args:
        strides: pixels between neighbouring cells, one per level.
        scales: side of a square anchor, in strides.
        ratios: height / width.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float]) -> None:
        sizes = tuple(tuple(stride * scale for scale in scales) for stride in strides)
        super().__init__(sizes, (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The anchors of a cell at the origin, (A, 4): ratios outside, sizes inside."""
        halves = [
            (0.5 * size / math.sqrt(ratio), 0.5 * size * math.sqrt(ratio)) for ratio in aspect_ratios for size in scales
        ]
        return torch.tensor([[-w, -h, w, h] for w, h in halves], dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """One (N, 4) float32 tensor per image, the same tensor for all: the images of a batch share their anchors."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        levels = []
        for stride, cell, feature_map in zip(self.strides, self.cell_anchors, feature_maps, strict=True):
            height, width = feature_map.shape[-2:]
            y, x = torch.meshgrid(
                torch.arange(height, dtype=torch.float32, device=cell.device) * stride,
                torch.arange(width, dtype=torch.float32, device=cell.device) * stride,
                indexing="ij",
            )
            centres = torch.stack((x, y, x, y), dim=-1)  # (H, W, 4)
            levels.append((cell[:, None, None] + centres).reshape(-1, 4))
        return [torch.cat(levels)] * len(image_list.image_sizes)

    def outside(self, image_list: ImageList, feature_maps: list[Tensor], size_divisible: int) -> Tensor | None:
        """Anchors of cells beyond an image's own padded size, (n, N) bool; None where no image has any.

        An image is padded to a multiple of `size_divisible`, then to the batch's largest: only the anchors of the first
        frame take part in training (paper's code; it keeps anchors that merely cross the border).
        """
        padded = padded_sizes(image_list.image_sizes, size_divisible)
        if all(size == tuple(image_list.tensors.shape[-2:]) for size in padded):
            return None
        device = feature_maps[0].device
        heights, widths = torch.tensor(padded, device=device).T[..., None]  # (n, 1) each
        levels = []
        for stride, cell, feature_map in zip(self.strides, self.cell_anchors, feature_maps, strict=True):
            height, width = feature_map.shape[-2:]
            below = torch.arange(height, device=device) * stride >= heights  # (n, H)
            right = torch.arange(width, device=device) * stride >= widths  # (n, W)
            cells = (below[:, :, None] | right[:, None, :])[:, None]  # (n, 1, H, W)
            levels.append(cells.expand(-1, len(cell), -1, -1).flatten(1))
        return torch.cat(levels, dim=1)
