"""RoIAlign over a pyramid: half-pixel aligned, adaptive sampling, at strides that are given and not guessed.

R  RoIs of the batch    F  channels    S  output side
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

# A RoI of up to twice this side, in pixels, is pooled from the finest level (224 / 4 in the FPN paper's equation 1).
FINEST_SIDE = 56.0


class PyramidRoIAlign(nn.Module):
    """RoIAlign with `aligned=True`, sampling ratio 0 and the level rule floor(log2(sqrt(wh) / 56 + 1e-6)).

    Args:
        levels: names of the levels to pool from, finest first.
        strides: pixels per cell of each of these levels.
        output_size: side S of the pooled square.
    """

    def __init__(self, levels: Sequence[str], strides: Sequence[int], output_size: int) -> None:
        super().__init__()
        self.levels, self.strides, self.output_size = tuple(levels), tuple(strides), output_size

    def level_of(self, rois: Tensor) -> Tensor:
        """Index of the level of each RoI: (R,) int64, 0 = finest, from boxes (R, 4) in pixels."""
        extent = rois[:, 2:] - rois[:, :2]
        level = torch.log2(extent.prod(dim=1).sqrt() / FINEST_SIDE + 1e-6).floor()
        return level.clamp(0, len(self.strides) - 1).long()

    def forward(
        self,
        features: Mapping[str, Tensor],  # levels by name, (n, F, H, W)
        boxes: Sequence[Tensor],  # per image (R_i, 4) float32 pixels
    ) -> Tensor:
        """Pooled features (R, F, S, S), in the order of `boxes`."""
        rois = torch.cat(list(boxes))
        image = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        level = self.level_of(rois)
        order = level.argsort(stable=True)
        sizes = torch.bincount(level, minlength=len(self.strides)).tolist()  # the one wait for the device
        pooled = [
            roi_align(features[name], part, self.output_size, 1.0 / stride, sampling_ratio=0, aligned=True)
            for name, stride, part in zip(
                self.levels, self.strides, torch.cat((image, rois), dim=1)[order].split(sizes), strict=True
            )
        ]
        return torch.cat(pooled)[order.argsort()]
