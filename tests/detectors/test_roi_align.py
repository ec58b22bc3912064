"""Pooling a ramp gives the coordinate that was sampled, which shows alignment, level, image and order at once."""

import pytest
import torch
from torch import Tensor

from rst.detectors.heads.roi_align import PyramidRoIAlign

STRIDES = (4, 8, 16, 32)
NAMES = ("p2", "p3", "p4", "p5")


def ramps(images: int, side: int) -> dict[str, Tensor]:
    """Levels of three channels: the cell's x, its y, and 100 * image + level."""
    levels = {}
    for i, (name, stride) in enumerate(zip(NAMES, STRIDES, strict=True)):
        cells = side // stride
        y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        tag = 100 * torch.arange(images)[:, None, None].expand(-1, cells, cells) + i
        levels[name] = torch.stack((x.expand(images, -1, -1), y.expand(images, -1, -1), tag), dim=1).float()
    return levels


def test_bins_lie_half_a_pixel_lower_and_rois_keep_their_order():
    boxes = [
        torch.tensor([[300.0, 310, 660, 700], [40, 44, 68, 86], [100, 120, 230, 250]]),
        torch.tensor([[64.0, 64, 192, 128], [200, 60, 221, 74]]),
    ]
    levels = [[2, 0, 1], [0, 0]]  # sides of 374, 34, 130, 90 and 17 pixels
    pooled = PyramidRoIAlign(NAMES, STRIDES, 7)(ramps(2, 768), boxes)
    assert pooled.shape == (5, 3, 7, 7)
    bins = (torch.arange(7) + 0.5) / 7
    rois = [(i, level, roi) for i in range(2) for level, roi in zip(levels[i], boxes[i], strict=True)]
    for features, (image, level, (x1, y1, x2, y2)) in zip(pooled, rois, strict=True):
        x = (x1 + bins * (x2 - x1)) / STRIDES[level] - 0.5
        y = (y1 + bins * (y2 - y1)) / STRIDES[level] - 0.5
        torch.testing.assert_close(features[0], x.expand(7, 7))
        torch.testing.assert_close(features[1], y[:, None].expand(7, 7))
        assert (features[2] == 100 * image + level).all()


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [(1, 1, 0), (111, 111, 0), (112, 112, 1), (56, 224, 1), (223, 223, 1), (224, 224, 2), (448, 448, 3), (2e4, 2e4, 3)],
)
def test_level_rule(width: float, height: float, level: int):
    align = PyramidRoIAlign(NAMES, STRIDES, 7)
    assert align.level_of(torch.tensor([[5.0, 9.0, 5 + width, 9 + height]])).tolist() == [level]


def test_no_rois_leave_a_graph():
    levels = {name: level.requires_grad_() for name, level in ramps(1, 64).items()}
    pooled = PyramidRoIAlign(NAMES, STRIDES, 7)(levels, [torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in levels.values())
