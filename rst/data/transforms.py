"""Pictures and targets on their way to the network: transforms.v2 on tv_tensors.

Resizing follows the published pipeline: the shorter side becomes one value of a list drawn per picture ("value" mode),
unless the longer side would pass the limit; both sides are rounded to the nearest pixel, and boxes are scaled by the
sides that result. Difference: torchvision's antialiased bilinear filter; the published pipeline has none, which matters
where a picture shrinks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

MIN_SIDE = 1.0  # pixels after resizing; a thinner box has no target to learn from


def training_transforms(short_sides: Sequence[int] = (800,), max_side: int = 1333, flip: float = 0.5) -> v2.Compose:
    """Multi-scale resize, horizontal flip with probability `flip`, float in [0, 1], thin boxes left out.

    Args:
        short_sides: candidates of the shorter side, pixels; one is drawn per picture.
        max_side: limit of the longer side, pixels.
        flip: probability in [0, 1].

    Returns:
        a transform of (tv_tensors.Image uint8, target) -> (tv_tensors.Image float32 in [0, 1], target).
    """
    if not 0.0 <= flip <= 1.0:
        raise ValueError(f"flip must lie in [0, 1], got {flip}")
    return v2.Compose(
        [
            ResizeShortSide(short_sides, max_side),
            v2.RandomHorizontalFlip(flip),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(min_size=MIN_SIDE, labels_getter=_labels),
        ]
    )


def evaluation_transforms(short_side: int = 800, max_side: int = 1333) -> v2.Compose:
    """Resize to one scale, float in [0, 1]; every box stays."""
    return v2.Compose([ResizeShortSide([short_side], max_side), v2.ToDtype(torch.float32, scale=True)])


def resized(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) of a picture after the keep-ratio resize, pixels."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class ResizeShortSide(v2.Transform):
    """Keep-ratio resize whose short side is drawn from a list. Boxes and masks follow the picture."""

    def __init__(self, short_sides: Sequence[int], max_side: int):
        super().__init__()
        if not short_sides or min(short_sides) < 1:
            raise ValueError(f"short_sides must be a non-empty list of positive pixel counts, got {list(short_sides)}")
        if max_side < max(short_sides):
            raise ValueError(f"max_side must not be below the largest short side {max(short_sides)}, got {max_side}")
        self.short_sides, self.max_side = list(short_sides), max_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        # drawn even from a list of one, so that the draws that follow do not depend on the list's length
        choice = int(torch.randint(len(self.short_sides), ()))
        return {"size": resized(height, width, self.short_sides[choice], self.max_side)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.resize(inpt, list(params["size"]), antialias=True)

    def extra_repr(self) -> str:
        return f"short_sides={self.short_sides}, max_side={self.max_side}"


def _labels(inputs: Any) -> Tensor:
    return inputs[1]["labels"]
