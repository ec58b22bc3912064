"""SOLOv2's assignment: cells of square grids over the image, those in the middle of an object are its positives.

    n  images    L  levels    S  cells along a side of a grid    N  cells of an image, all levels
    G  objects of an image

A cell has one label and one mask: where the centres of objects overlap, the first object of the image has it, as in the
Rank & Sort paper's code (SOLOv2 itself gives the cell all masks, and the class of the last). The number of a cell
counts as that of an anchor: level by level, in a level by (y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.ground_truth import GroundTruth
from ..geometry.mask_shapes import mass_centres
from ..geometry.numbers import require_above_zero, require_count, require_share
from ..geometry.transfers import constant
from .scene import NEGATIVE


@dataclass(frozen=True)
class GridSettings:
    """The grids of the five levels, finest first, and which objects belong to which.

    Args:
        cells: S of each level.
        scale_ranges: the square roots of width times height of a level's objects, pixels, both ends included. Ranges
            overlap: an object may have positives on two levels. One that no range holds has none.
        centre: share of an object's width and height that its central region has; cells in it are positives, at most
            3 x 3 of them.
    """

    cells: Sequence[int] = (40, 36, 24, 16, 12)
    scale_ranges: Sequence[tuple[float, float]] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    centre: float = 0.2

    def __post_init__(self) -> None:
        for cells in self.cells:
            require_count("grids.cells", cells)
        for pair in self.scale_ranges:
            for end in pair:
                require_above_zero("grids.scale_ranges", end)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"grids.scale_ranges has {list(pair)}, not [smallest, largest]")
        if len(self.scale_ranges) != len(self.cells):
            raise ValueError(
                f"grids.scale_ranges has {len(self.scale_ranges)} ranges for {len(self.cells)} levels of grids.cells"
            )
        require_share("grids.centre", self.centre)


class GridAssigner:
    """Gives each cell its object (Wang et al., NeurIPS 2020, section 3; Rank & Sort, section 6.2.2)."""

    def __init__(self, settings: GridSettings) -> None:
        self.settings = settings

    def __call__(
        self,
        truth: GroundTruth,
        padded_size: tuple[int, int],  # height and width of the batch, which the grids divide; pixels
    ) -> Tensor:
        """The match of each cell of each image, (n, N) int64.

        An object's centre is its mask's centre of mass. An object with an empty mask has no positives.
        """
        assert truth.masks is not None
        matches, before = [], 0
        for boxes, masks in zip(truth.boxes, truth.masks, strict=True):
            if len(boxes):
                owner = self._owner(boxes, mass_centres(masks), padded_size)
                matches.append(torch.where(owner < len(boxes), owner + before, NEGATIVE))
            else:
                shape = (sum(side**2 for side in self.settings.cells),)
                matches.append(torch.full(shape, NEGATIVE, dtype=torch.int64, device=boxes.device))
            before += len(boxes)
        return torch.stack(matches)

    def _owner(
        self,
        boxes: Tensor,  # (G, 4)
        centres: Tensor,  # (G, 2) float64, x and y; NaN: there is none
        padded_size: tuple[int, int],
    ) -> Tensor:
        """The object of each cell of an image, (N,) int64; G: none."""
        device = boxes.device
        extent = (boxes[:, 2:] - boxes[:, :2]).double()
        scale = extent.prod(1).sqrt()[:, None]  # (G, 1)
        smallest, largest = constant(self.settings.scale_ranges, torch.float64, device).unbind(1)
        in_range = (scale >= smallest) & (scale <= largest)  # (G, L)
        sides = constant(self.settings.cells, torch.float64, device)
        cell = constant(padded_size[::-1], torch.float64, device) / sides[:, None]  # (L, 2) pixels
        half = 0.5 * self.settings.centre * extent
        middle, low, high = (
            (place[:, None] / cell).floor() for place in (centres, centres - half, centres + half)
        )  # (G, L, 2) each: column and row
        low, high = torch.maximum(low, middle - 1), torch.minimum(high, middle + 1)
        level, place = grid_cells(self.settings.cells, device)
        inside = (place >= low[:, level]) & (place <= high[:, level])  # (G, N, 2); NaN is nowhere
        covers = in_range[:, level] & inside.all(dim=2)
        first = torch.arange(len(boxes), dtype=torch.int64, device=device)[:, None]
        return torch.where(covers, first, len(boxes)).amin(dim=0)


def grid_cells(sides: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The level of each cell, (N,) int64 from 0, and its column and row, (N, 2) int64."""
    levels, places = [], []
    for number, side in enumerate(sides):
        along = torch.arange(side, dtype=torch.int64, device=device)
        row, column = torch.meshgrid(along, along, indexing="ij")
        places.append(torch.stack((column, row), dim=-1).flatten(0, 1))
        levels.append(torch.full((side**2,), number, dtype=torch.int64, device=device))
    return torch.cat(levels), torch.cat(places)


def cell_boxes(sides: Sequence[int], padded_size: tuple[int, int], device: torch.device) -> Tensor:
    """(N, 4) float32 XYXY pixels: the cells of the grids of a batch of that height and width."""
    level, place = grid_cells(sides, device)
    along = constant(sides, torch.float32, device)[level, None]
    size = constant(padded_size[::-1], torch.float32, device)
    return torch.cat((place * size / along, (place + 1) * size / along), dim=1)
