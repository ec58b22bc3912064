"""Masks of RoIs, pasted into the image.

k  detections    S  side of a predicted mask, cells    H, W  pixels of the image    y, x  sides of a window, pixels
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    limit = torch.tensor([shape[1], shape[0]] * 2, dtype=torch.int64, device=boxes.device)
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


def _unit(pixel: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The centres of pixels in the frame where the interval from low to high is [-1, 1]."""
    return (pixel + 0.5 - low) / (high - low).clamp(min=1e-6) * 2 - 1
