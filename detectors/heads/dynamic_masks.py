"""SOLOv2's heads: classes and mask kernels of the cells of a grid, and the features that a kernel makes a mask of.

n  images    F  channels of a level    S  cells along a side of a grid    C  classes    E  channels of a kernel
H, W  cells of a level    h, w  of the finest one
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from .dense_head import GROUPS, require_groups, start_small, tower

AXES = 2  # coordinates that a convolution is told


class GridOutputs(NamedTuple):
    """What the heads say of a batch."""

    logits: list[Tensor]  # of each level (n, C, S, S)
    kernels: list[Tensor]  # of each level (n, E, S, S)
    features: Tensor  # (n, E, h, w), of stride 4


class GridHead(nn.Module):
    """A tower for the classes and one for the kernels, which all levels share, on maps resized to the grids.

    A grid divides the padded batch. The kernels' tower also sees where its cells are. As published, the finest level is
    halved before it is resized, and the coarsest is enlarged to the one before.

    Args:
        in_channels: F.
        channels: of the towers, a multiple of 32 from 64 on.
        convolutions: of each tower.
        kernel_channels: E.
        num_classes: C.
        cells: S of each level.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        convolutions: int,
        kernel_channels: int,
        num_classes: int,
        cells: Sequence[int],
    ) -> None:
        super().__init__()
        require_groups("head_channels", channels)
        self.cells = tuple(cells)
        self.cls_tower = tower(in_channels, channels, convolutions)
        self.kernel_tower = tower(in_channels + AXES, channels, convolutions)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.kernels = nn.Conv2d(channels, kernel_channels, 3, padding=1)
        start_small(self, self.cls_logits)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and kernels of every level, as `GridOutputs` has them, of levels (n, F, H, W)."""
        finest, *between, coarsest = maps
        finest = _resized(finest, [max(1, side // 2) for side in finest.shape[-2:]])
        coarsest = _resized(coarsest, between[-1].shape[-2:])
        logits, kernels = [], []
        for level, side in zip((finest, *between, coarsest), self.cells, strict=True):
            grid = _resized(level, (side, side))
            coordinates = _resized(_coordinates(level), (side, side)).to(grid.dtype)
            logits.append(self.cls_logits(self.cls_tower(grid)))
            placed = torch.cat((grid, coordinates.expand(len(grid), -1, -1, -1)), dim=1)
            kernels.append(self.kernels(self.kernel_tower(placed)))
        return logits, kernels


class MaskFeatures(nn.Module):
    """Levels 2 to 5, brought to the size of the finest by convolutions and upsampling, summed and projected.

    The coarsest of them also sees where its cells are.

    Args:
        in_channels: F.
        channels: of the convolutions, a multiple of 32 from 64 on.
        kernel_channels: E, likewise.
        levels: how many.
    """

    def __init__(self, in_channels: int, channels: int, kernel_channels: int, levels: int = 4) -> None:
        super().__init__()
        require_groups("mask_channels", channels)
        require_groups("kernel_channels", kernel_channels)
        self.levels = nn.ModuleList()
        for level in range(levels):
            width = in_channels + AXES if level == levels - 1 else in_channels
            steps: list[nn.Module] = list(tower(width, channels, max(1, level)))
            if level:  # a doubling after each convolution
                doubled = [(step, nn.Upsample(scale_factor=2, mode="bilinear")) for step in steps]
                steps = [module for pair in doubled for module in pair]
            self.levels.append(nn.Sequential(*steps))
        norm = partial(nn.GroupNorm, GROUPS)
        self.project = Conv2dNormActivation(channels, kernel_channels, 1, norm_layer=norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(n, E, h, w) of levels (n, F, H, W), finest first; of more levels than it takes the others are left out."""
        *finer, coarsest = maps[: len(self.levels)]
        coordinates = _coordinates(coarsest).to(coarsest.dtype).expand(len(coarsest), -1, -1, -1)
        total: Tensor | None = None
        for level, features in zip(self.levels, (*finer, torch.cat((coarsest, coordinates), dim=1)), strict=True):
            own = level(features)
            total = own if total is None else total + own
        assert total is not None
        return self.project(total)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _coordinates(
    level: Tensor,  # (n, F, H, W)
) -> Tensor:
    """(1, 2, H, W) float32: column and row of each cell, from -1 to 1."""
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float32, device=level.device) for side in level.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
