"""Images and targets on their way to the network: transforms.v2 on tv_tensors.

Resizing follows the published pipeline: the shorter side becomes one value of a list drawn per image ("value" mode),
unless the longer side would pass the limit; both sides are rounded to the nearest pixel, and boxes are scaled by the
sides that result. Difference: torchvision's antialiased bilinear filter; the published pipeline has none, which matters
where an image shrinks.

YOLACT's augmentations (those of SSD, Liu et al., ECCV 2016) are torchvision's. Differences from the published pipeline:
brightness is multiplied by 1 +- 0.125, not shifted by +- 32 of 255; a crop needs one box with enough IoU, not enough
IoU with all boxes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from rst.data.images import resized

MIN_SIDE = 1.0  # pixels after resizing; a thinner box has no target to learn from
MEAN_COLOUR = [124, 116, 104]  # ImageNet's mean, about zero once normalised
LEAST_CROPPED = 16  # pixels; smaller images are not cropped


def training_transforms(
    short_sides: Sequence[int] = (800,),
    max_side: int = 1333,
    flip: float = 0.5,
    *,
    keep_ratio: bool = True,
    photometric: bool = False,
    expand: float = 1.0,
    iou_crop: bool = False,
    min_box_side: float = MIN_SIDE,
) -> v2.Compose:
    """The augmentations that are asked for, in the order of the arguments from the last to the first.

    Args:
        short_sides: candidates of the shorter side, pixels; one is drawn per image.
        max_side: limit of the longer side, pixels.
        flip: probability in [0, 1] of a horizontal flip.
        keep_ratio: False makes every image a square of the side drawn, without `max_side`.
        photometric: brightness, contrast, saturation, hue and the order of the channels, each with probability 0.5.
        expand: with probability 0.5, put the image on a canvas of the mean colour whose sides are up to this many
            times as long; 1 never does.
        iou_crop: crop to a part, of 0.3 to 1 times each side, that overlaps some object by an IoU drawn from 0 to 0.9,
            or not at all; objects whose centre is cut off go. Images without objects are not cropped.
        min_box_side: boxes with a side of less than this many pixels of the image file are left out, at least 1.

    Returns:
        a transform of (tv_tensors.Image uint8, target) -> (tv_tensors.Image float32 in [0, 1], target), which leaves
        out boxes that became thinner than a pixel. All draws are torch's default generator's.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0.0 <= flip <= 1.0:
        raise ValueError(f"flip must lie in [0, 1], got {flip}")
    if not 1.0 <= expand <= 16.0:
        raise ValueError(f"expand must lie in [1, 16] times the sides of the image, got {expand}")
    if not min_box_side >= MIN_SIDE:
        raise ValueError(f"min_box_side must be at least {MIN_SIDE:g} pixel, got {min_box_side}")
    steps: list[v2.Transform] = []
    if min_box_side > MIN_SIDE:
        steps.append(v2.SanitizeBoundingBoxes(min_size=min_box_side, labels_getter=_labels))
    if photometric:
        steps.append(v2.RandomPhotometricDistort())
    if expand > 1.0:
        fill: dict[Any, Any] = {tv_tensors.Image: MEAN_COLOUR, "others": 0}
        steps.append(v2.RandomZoomOut(fill, side_range=(1.0, expand)))
    if iou_crop:
        steps.append(IoUCrop())
    return v2.Compose(
        [
            *steps,
            _resize(short_sides, max_side, keep_ratio),
            v2.RandomHorizontalFlip(flip),
            v2.ToDtype(torch.float32, scale=True),
            # a box that ends at the border may end 1e-5 pixels outside after resizing, for which the last step drops it
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=MIN_SIDE, labels_getter=_labels),
        ]
    )


def evaluation_transforms(short_side: int = 800, max_side: int = 1333, *, keep_ratio: bool = True) -> v2.Compose:
    """Resize to one scale, float in [0, 1]; every box stays."""
    return v2.Compose([_resize([short_side], max_side, keep_ratio), v2.ToDtype(torch.float32, scale=True)])


class ResizeSquare(v2.Transform):
    """Resize to a square whose side is drawn from a list, whatever the ratio was. Boxes and masks follow."""

    def __init__(self, sides: Sequence[int]):
        super().__init__()
        if not sides or min(sides) < 1:
            raise ValueError(f"short_sides must be a non-empty list of positive pixel counts, got {list(sides)}")
        self.sides = list(sides)

    def resized(self, sizes: np.ndarray, side: int) -> np.ndarray:
        """(N, 2) int64, height and width to which images of `sizes` (N, 2) are resized when `side` is drawn."""
        return np.full_like(sizes, side, np.int64)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        # one draw whatever the length of the list: later draws then do not depend on it
        side = self.sides[int(torch.randint(len(self.sides), ()))]
        return {"size": (side, side)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.resize(inpt, list(params["size"]), antialias=True)

    def extra_repr(self) -> str:
        return f"sides={self.sides}"


class ResizeShortSide(ResizeSquare):
    """Keep-ratio resize whose short side is drawn from a list. Boxes and masks follow the image."""

    def __init__(self, short_sides: Sequence[int], max_side: int):
        super().__init__(short_sides)
        if max_side < max(short_sides):
            raise ValueError(f"max_side must not be below the largest short side {max(short_sides)}, got {max_side}")
        self.max_side = max_side

    def resized(self, sizes: np.ndarray, side: int) -> np.ndarray:
        scale = np.minimum(side / sizes.min(1), self.max_side / sizes.max(1))  # as `rst.data.images.resized`
        return np.maximum(1, np.floor(sizes * scale[:, None] + 0.5)).astype(np.int64)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        short_side, _ = super().make_params(flat_inputs)["size"]
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"size": resized(height, width, short_side, self.max_side)}

    def extra_repr(self) -> str:
        return f"short_sides={self.sides}, max_side={self.max_side}"


class IoUCrop(v2.RandomIoUCrop):
    """torchvision's, which loops forever on an image without objects and divides by zero on a tiny one."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        boxes = next(value for value in flat_inputs if isinstance(value, tv_tensors.BoundingBoxes))
        if len(boxes) == 0 or min(boxes.canvas_size) < LEAST_CROPPED:
            return {}
        return super().make_params(flat_inputs)


def _resize(sides: Sequence[int], max_side: int, keep_ratio: bool) -> v2.Transform:
    return ResizeShortSide(sides, max_side) if keep_ratio else ResizeSquare(sides)


def _labels(inputs: Any) -> Tensor:
    return inputs[1]["labels"]
