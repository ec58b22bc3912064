"""What is measured of masks: centre of mass, box, and the shape on a map of stride 4.

G  masks    H, W  pixels
"""

import torch
from torch import Tensor

from .masks import shrink_masks

STRIDE = 4  # pixels of a cell of `coarse_masks`
PIXELS_AT_ONCE = 2**23  # of masks whose centres are computed together: 32 MiB of float32


def mass_centres(
    masks: Tensor,  # (G, H, W) bool or uint8
) -> Tensor:
    """The centres of mass, x and y, (G, 2) float64 pixels; NaN for an empty mask. A pixel weighs at its own centre."""
    of_columns, of_rows = [], []
    for some in masks.split(max(1, PIXELS_AT_ONCE // (masks.shape[1] * masks.shape[2]))):
        pixels = some.bool().float()  # on a CPU their sums take a third of the time of those of bool
        of_columns.append(pixels.sum(1))
        of_rows.append(pixels.sum(2))
    return torch.stack((_mean_place(torch.cat(of_columns)), _mean_place(torch.cat(of_rows))), dim=1)


def _mean_place(
    weights: Tensor,  # (G, K) float32, whole numbers
) -> Tensor:
    """(G,) float64: the mean of 0.5, 1.5 and so on; NaN where all weights are 0."""
    weights = weights.double()
    places = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device) + 0.5
    return (weights * places).sum(1) / weights.sum(1)


def coarse_masks(
    masks: Tensor,  # (G, H, W) bool or uint8, H and W multiples of 4
    soft: bool,
) -> Tensor:
    """The masks in cells of 4 x 4 pixels, (G, H / 4, W / 4): what part of a cell is covered, or whether it counts.

    Args:
        masks: of pixels.
        soft: float32, the share of a cell's pixels. Otherwise bool, whether two of its middle four pixels are set: that
            is bilinear resizing without antialiasing, rounded, as in the published code. It may lose a small mask, and
            moves borders by up to two pixels.
    """
    if not soft:
        return shrink_masks(masks, STRIDE, (masks.shape[1] // STRIDE, masks.shape[2] // STRIDE), least=2)
    parts = [masks[:, row::STRIDE, column::STRIDE].bool() for row in range(STRIDE) for column in range(STRIDE)]
    return torch.stack(parts).sum(0, dtype=torch.uint8).float() / STRIDE**2


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
