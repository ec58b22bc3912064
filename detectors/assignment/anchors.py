"""Anchors of a feature pyramid, and which of them lie in the padding of an image.

    n  images    A  anchors per cell    H, W  cells of a level    N  anchors of an image, all levels    K  boxes

The order inside a level is (anchor of the cell, y, x): that of a convolution's output, so logits are never permuted.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..geometry.boxes import paired_iou
from ..geometry.ground_truth import NO_TRUTH, GroundTruth
from ..geometry.layout import PADDING, MapLayout, padded_sizes
from ..geometry.transfers import constant
from .scene import Scene


class AnchorGenerator(nn.Module):
    """Float anchors centred at (x * step, y * step), never rounded, at strides that are given and not guessed.

    torchvision rounds the anchors of a cell, infers the stride from the sizes of image and map (wrong on P6 where P5
    has an odd side), and takes the dtype of the maps, which is bfloat16 under autocast.

    Args:
        strides: pixels of an image for each cell, one per level; the last cell may be a part of one.
        scales: side of a square anchor, in strides.
        ratios: height / width.
        steps: pixels between the centres of neighbouring cells, one per level; None: the strides.
        offset: of the first centre from the border, in steps.
        padding: an image padded on its own has sides that are multiples of this, pixels.
    """

    def __init__(
        self,
        strides: Sequence[int],
        scales: Sequence[float],
        ratios: Sequence[float],
        *,
        steps: Sequence[float] | None = None,
        offset: float = 0.0,
        padding: int = PADDING,
    ) -> None:
        super().__init__()
        self.strides, self.scales, self.ratios = tuple(strides), tuple(scales), tuple(ratios)
        self.steps: tuple[float, ...] = self.strides if steps is None else tuple(steps)
        self.offset, self.padding = offset, padding
        self.per_cell = len(scales) * len(ratios)  # A
        for level, stride in enumerate(self.strides):
            cell = cell_anchors([stride * scale for scale in scales], ratios)
            self.register_buffer(f"cell_{level}", torch.tensor(cell, dtype=torch.float32), persistent=False)

    @property
    def cells(self) -> list[Tensor]:
        """Of each level the anchors of a cell at the origin, (A, 4) float32 pixels."""
        return [self.get_buffer(f"cell_{level}") for level in range(len(self.strides))]

    def forward(self, layout: MapLayout) -> Tensor:
        """(N, 4) float32 XYXY pixels: the images of a batch share their anchors."""
        levels = []
        for step, cell, (height, width) in zip(self.steps, self.cells, layout.sizes, strict=True):
            y, x = torch.meshgrid(
                self._centres(height, step, cell.device), self._centres(width, step, cell.device), indexing="ij"
            )
            centres = torch.stack((x, y, x, y), dim=-1)  # (H, W, 4)
            levels.append((cell[:, None, None] + centres).reshape(-1, 4))
        return torch.cat(levels)

    def _centres(self, cells: int, step: float, device: torch.device) -> Tensor:
        """The centres of so many cells along one axis, float32 pixels."""
        return (torch.arange(cells, dtype=torch.float32, device=device) + self.offset) * step

    def scene(
        self,
        sizes: Sequence[tuple[int, int]],  # cells: height and width of each level's map
        image_sizes: Sequence[tuple[int, int]],  # pixels
        padded_size: tuple[int, int],  # of the batch, pixels
        truth: GroundTruth = NO_TRUTH,
    ) -> Scene:
        """The anchors for maps of those sizes, beside the objects of a batch; without objects in an evaluation."""
        layout = MapLayout(len(image_sizes), self.per_cell, tuple(sizes))
        outside = self.outside(layout, image_sizes, padded_size) if truth.boxes else None
        return Scene(self(layout), layout, self.strides, image_sizes, outside, truth, self.padding)

    def outside(
        self, layout: MapLayout, image_sizes: Sequence[tuple[int, int]], padded_size: tuple[int, int]
    ) -> Tensor | None:
        """Anchors of cells beyond an image's own padded size, (n, N) bool; None where no image has any.

        An image is padded to a multiple of `padding`, then to the batch's largest: only the anchors of the first
        frame take part in training (paper's code; it keeps anchors that merely cross the border).
        """
        padded = padded_sizes(image_sizes, self.padding)
        if all(size == padded_size for size in padded):
            return None
        device = self.cells[0].device
        heights, widths = constant(padded, torch.int64, device).T[..., None]  # (n, 1) each
        levels = []
        for step, (height, width) in zip(self.steps, layout.sizes, strict=True):
            below = self._centres(height, step, device) >= heights  # (n, H)
            right = self._centres(width, step, device) >= widths  # (n, W)
            cells = (below[:, :, None] | right[:, None, :])[:, None]  # (n, 1, H, W)
            levels.append(cells.expand(-1, self.per_cell, -1, -1).flatten(1))
        return torch.cat(levels, dim=1)

    def changed(self, scale: float | None = None, ratio: float | None = None) -> "AnchorGenerator":
        """The anchors with `scale` as the first of the scales, the others in proportion, or with one more ratio."""
        factor = 1.0 if scale is None else scale / self.scales[0]
        ratios = self.ratios if ratio is None else (*self.ratios, ratio)
        lattice = {"steps": self.steps, "offset": self.offset, "padding": self.padding}
        return AnchorGenerator(self.strides, [factor * old for old in self.scales], ratios, **lattice)

    def best_ious(
        self,
        boxes: Tensor,  # (K, 4) float32 XYXY pixels
        image_sizes: Tensor,  # (K, 2) int64: height and width of the image of each box, pixels
    ) -> Tensor:
        """(K,) float32: the highest IoU of each box with an anchor that takes part in the training of its image.

        From geometry alone. The anchors of one shape on one level are a lattice, and along an axis the overlap with a
        box falls with the distance of the centres: of each lattice only the anchor nearest to the box is looked at.
        """
        padded = -(-image_sizes // self.padding) * self.padding
        centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
        best = boxes.new_zeros(len(boxes))
        for stride, step, cells in zip(self.strides, self.steps, self.cells, strict=True):
            last = -(-padded // stride) - 1  # (K, 2): row and column
            cell = (centre / step - self.offset).round().long().clamp(min=0).minimum(last.flip(1))  # column and row
            nearest = ((cell + self.offset) * step).float().repeat(1, 2)  # (K, 4)
            for anchor in cells.to(boxes.device):
                best = torch.maximum(best, paired_iou(anchor + nearest, boxes))
        return best


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> list[list[float]]:
    """The anchors of a cell at the origin, A times XYXY: ratios outside, sizes (pixels) inside."""
    halves = [(0.5 * size / math.sqrt(ratio), 0.5 * size * math.sqrt(ratio)) for ratio in ratios for size in sizes]
    return [[-w, -h, w, h] for w, h in halves]
