"""Boxes of the best anchors of a level, read from the maps where the convolutions left them.

n  images    A  anchors per cell    H, W  cells of the level    k  anchors looked at
"""

import torch
from torch import Tensor

from ..geometry.boxes import BoxCoder
from ..geometry.layout import MapLayout


def take(
    level: Tensor,  # (n, A c, H, W)
    chosen: Tensor,  # (n, k) int64, numbers of anchors in the level
    layout: MapLayout,
) -> Tensor:
    """The channels of the chosen anchors, (n, k, c)."""
    by_anchor = layout.by_anchor(level)  # (n, A, c, H W)
    images = torch.arange(layout.images, device=level.device)[:, None]
    cells = by_anchor.shape[-1]
    return by_anchor[images, chosen // cells, :, chosen % cells]


def decode_boxes(
    deltas: Tensor,  # (n, 4 A, H, W)
    anchors: Tensor,  # (A H W, 4) of the level, pixels
    chosen: Tensor,  # (n, k) int64
    layout: MapLayout,
    coder: BoxCoder,
) -> Tensor:
    """The boxes of the chosen anchors, (n, k, 4) float32 pixels, not clipped."""
    return coder.decode_single(take(deltas, chosen, layout).float(), anchors[chosen])
