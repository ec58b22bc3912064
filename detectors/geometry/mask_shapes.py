"""What is measured of masks: centre of mass, box, the shape on a map of stride 4; and masks as products of kernels.

G  masks    H, W  pixels    P  kernels    E  channels of a kernel    h, w  cells of a mask
"""

import torch
from torch import Tensor

STRIDE = 4  # pixels of a cell of `coarse_masks`


def mass_centres(
    masks: Tensor,  # (G, H, W) bool or uint8
) -> Tensor:
    """The centres of mass, x and y, (G, 2) float64 pixels; NaN for an empty mask. A pixel weighs at its own centre."""
    masks = masks.bool()
    return torch.stack((_mean_place(masks.sum(1)), _mean_place(masks.sum(2))), dim=1)


def _mean_place(
    weights: Tensor,  # (G, K) int64
) -> Tensor:
    """(G,) float64: the mean of 0.5, 1.5 and so on; NaN where all weights are 0."""
    places = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device) + 0.5
    return (weights * places).sum(1) / weights.sum(1)


def coarse_masks(
    masks: Tensor,  # (G, H, W) bool or uint8, H and W multiples of 4
) -> Tensor:
    """(G, H / 4, W / 4) bool: set where two of the middle four of 4 x 4 pixels are.

    That is bilinear resizing without antialiasing, rounded, as in the published code. It may lose a mask of few pixels.
    """
    middle = [masks[:, row::STRIDE, column::STRIDE].bool() for row in (1, 2) for column in (1, 2)]
    return torch.stack(middle).sum(0, dtype=torch.uint8) >= 2


def mask_boxes(
    masks: Tensor,  # (G, H, W) bool
) -> Tensor:
    """The smallest box around the pixels of each mask, (G, 4) float32 XYXY; for an empty one without positive sides."""
    (left, right), (top, bottom) = _ends(masks.any(1)), _ends(masks.any(2))
    return torch.stack((left, top, right, bottom), dim=1).float()


def _ends(
    occupied: Tensor,  # (G, K) bool
) -> tuple[Tensor, Tensor]:
    """The first place that is occupied and the one after the last, (G,) int64 each; K and 0 where there is none."""
    places = torch.arange(occupied.shape[1], dtype=torch.int64, device=occupied.device)
    return (
        torch.where(occupied, places, occupied.shape[1]).amin(dim=1),
        torch.where(occupied, places + 1, 0).amax(dim=1),
    )


def dynamic_masks(
    kernels: Tensor,  # (P, E)
    features: Tensor,  # (E, h, w) of one image
) -> Tensor:
    """The logits of the masks, (P, h, w) float32: a convolution of 1 x 1 with each kernel."""
    return (kernels @ features.flatten(1)).float().unflatten(1, features.shape[1:])
