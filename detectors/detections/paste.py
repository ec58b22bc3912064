"""Masks of RoIs, pasted into the image, and masks of the whole image, cut to boxes.

k  detections    S  side of a predicted mask, cells    H, W  pixels of the image    y, x  sides of a window, pixels
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.masks import PIXELS_AT_ONCE
from ..geometry.transfers import constant


def paste_masks(
    probabilities: Tensor,  # (k, S, S) float in [0, 1]
    boxes: Tensor,  # (k, 4) XYXY pixels
    shape: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """The masks in the image, (k, H, W) bool: set where the probability at the centre of a pixel is the threshold.

    A mask is stretched over its box bilinearly; outside of it nothing is set. Each mask is computed in the window of
    its box alone, so that the memory beside the result is that of one window.

    Args:
        probabilities: of each detection, the cells of its box.
        boxes: of the detections.
        shape: H and W.
        threshold: lowest probability of the object.
    """
    pasted = torch.zeros(len(boxes), *shape, dtype=torch.bool, device=boxes.device)
    limit = constant([shape[1], shape[0]] * 2, torch.int64, boxes.device)
    windows = torch.cat((boxes[:, :2].floor(), boxes[:, 2:].ceil()), dim=1).clamp(min=0).minimum(limit)
    for mask, probability, box, (left, top, right, bottom) in zip(
        pasted, probabilities, boxes.float(), windows.long().tolist(), strict=True
    ):
        if left >= right or top >= bottom:
            continue
        x = _unit(torch.arange(left, right, dtype=torch.float32, device=boxes.device), box[0], box[2])
        y = _unit(torch.arange(top, bottom, dtype=torch.float32, device=boxes.device), box[1], box[3])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (y, x, 2)
        window = F.grid_sample(probability[None, None].float(), grid[None], align_corners=False, padding_mode="border")[
            0, 0
        ]
        inside = (grid.abs() <= 1).all(dim=-1)
        mask[top:bottom, left:right] = (window >= threshold) & inside
    return pasted


def upsampled_masks(
    probabilities: Callable[[slice], Tensor],
    boxes: Tensor,  # (k, 4) XYXY pixels
    shape: tuple[int, int],
    stride: int,
    threshold: float = 0.5,
) -> Tensor:
    """Masks of a whole image, cut to their boxes: (k, H, W) bool, set where the probability is the threshold.

    A few at a time, so that the memory beside the result is bounded.

    Args:
        probabilities: of some of the detections, (t, h, w), cells of `stride` pixels that cover the image and more.
        boxes: of the detections; a pixel that a box touches belongs to it.
        shape: H and W.
        stride: pixels of a cell, to which the probabilities are upsampled bilinearly.
        threshold: lowest probability of the object.
    """
    height, width = shape
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    rows, columns = (torch.arange(side, device=boxes.device) for side in shape)
    left, top, right, bottom = boxes[..., None].unbind(1)  # (k, 1) each
    inside_rows = (rows >= top.floor()) & (rows < bottom.ceil())  # (k, H)
    inside_columns = (columns >= left.floor()) & (columns < right.ceil())  # (k, W)
    together = max(1, PIXELS_AT_ONCE // max(1, height * width))
    for begin in range(0, len(boxes), together):
        some = slice(begin, min(begin + together, len(boxes)))
        pixels = F.interpolate(probabilities(some)[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
        set_ = pixels[:, :height, :width] >= threshold
        masks[some] = set_ & inside_rows[some, :, None] & inside_columns[some, None]
    return masks


def _unit(pixel: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The centres of pixels in the frame where the interval from low to high is [-1, 1]."""
    return (pixel + 0.5 - low) / (high - low).clamp(min=1e-6) * 2 - 1
