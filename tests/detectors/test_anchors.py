"""Literal anchors, their order, and which of them an image's padding excludes."""

import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from rst.detectors.assignment.anchors import AnchorGenerator

STRIDES = (4, 8, 16, 32, 64)


def generate(sizes: list[tuple[int, int]], dtype: torch.dtype = torch.float32):
    generator = AnchorGenerator(STRIDES, scales=(8.0,), ratios=(0.5, 1.0, 2.0))
    height, width = (math.ceil(max(side) / 32) * 32 for side in zip(*sizes, strict=True))
    images = ImageList(torch.zeros(len(sizes), 3, height, width), sizes)
    maps = [torch.zeros(len(sizes), 1, -(-height // s), -(-width // s), dtype=dtype) for s in STRIDES]
    return generator, images, maps


def test_literal_values_and_order():
    generator, images, maps = generate([(32, 64)])
    (anchors,) = generator(images, maps)
    # level P2: 8 x 16 cells; ratio 0.5 is wide, and no side is rounded
    half_long, half_short = 16 * math.sqrt(2), 16 / math.sqrt(2)
    torch.testing.assert_close(anchors[0], torch.tensor([-half_long, -half_short, half_long, half_short]))
    torch.testing.assert_close(anchors[128 + 17], torch.tensor([-12.0, -12, 20, 20]))  # ratio 1, cell y 1, x 1
    torch.testing.assert_close(anchors[256], torch.tensor([-half_short, -half_long, half_short, half_long]))
    assert len(anchors) == 3 * (8 * 16 + 4 * 8 + 2 * 4 + 1 * 2 + 1 * 1)
    torch.testing.assert_close(anchors[-2], torch.tensor([-256.0, -256, 256, 256]))  # P6, ratio 1


def test_stride_of_p6_is_64_where_p5_is_odd():
    generator, images, maps = generate([(96, 96)])  # P5 has 3 x 3 cells, P6 2 x 2: 96 // 2 would be 48
    (anchors,) = generator(images, maps)
    square = anchors[-8:-4]  # P6, ratio 1, four cells
    centres = (square[:, :2] + square[:, 2:]) / 2
    assert centres.tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]


def test_anchors_are_float32_under_half_precision_maps_and_shared_by_images():
    generator, images, maps = generate([(32, 32), (32, 32)], dtype=torch.bfloat16)
    first, second = generator(images, maps)
    assert first.dtype == torch.float32
    assert first is second


def test_several_scales_are_inside_each_ratio():
    generator = AnchorGenerator((8,), scales=(4.0, 8.0), ratios=(1.0, 4.0))
    sides = generator.cell_anchors[0][:, 2:] * 2
    assert sides.tolist() == [[32, 32], [64, 64], [16, 64], [32, 128]]


@pytest.mark.parametrize("sizes", [[(64, 96)], [(40, 70), (64, 96)]])
def test_no_anchor_is_outside_where_all_pad_to_the_same_size(sizes: list[tuple[int, int]]):
    generator, images, maps = generate(sizes)
    assert generator.outside(images, maps, 32) is None


def test_outside_against_every_cell():
    generator, images, maps = generate([(33, 130), (128, 40)])  # padded on their own: 64 x 160 and 128 x 64
    outside = generator.outside(images, maps, 32)
    assert outside is not None
    expected = []
    for height, width in ((64, 160), (128, 64)):
        cells = []
        for stride, level in zip(STRIDES, maps, strict=True):
            for _ in range(3):
                for y in range(level.shape[2]):
                    cells += [y * stride >= height or x * stride >= width for x in range(level.shape[3])]
        expected.append(cells)
    assert outside.tolist() == expected
