"""Literal anchors, their order, and which of them lie in the padding of an image."""

import math

import pytest
import torch

from rst.detectors.assignment.anchors import AnchorGenerator
from rst.detectors.features.pyramids import P2_TO_P6
from rst.detectors.geometry.boxes import pairwise_iou
from rst.detectors.geometry.ground_truth import GroundTruth
from rst.detectors.geometry.layout import MapLayout, padded_sizes

STRIDES = (4, 8, 16, 32, 64)


def generate(image_sizes: list[tuple[int, int]]) -> tuple[AnchorGenerator, MapLayout, tuple[int, int]]:
    """A generator, the layout of its maps, and the size of the padded batch."""
    generator = AnchorGenerator(STRIDES, scales=(8.0,), ratios=(0.5, 1.0, 2.0))
    height, width = (max(sides) for sides in zip(*padded_sizes(image_sizes), strict=True))
    return generator, MapLayout(len(image_sizes), 3, P2_TO_P6.sizes((height, width))), (height, width)


def test_literal_values_and_order():
    generator, layout, _ = generate([(32, 64)])
    anchors = generator(layout)
    # level P2: 8 x 16 cells; ratio 0.5 is wide, and no side is rounded
    half_long, half_short = 16 * math.sqrt(2), 16 / math.sqrt(2)
    torch.testing.assert_close(anchors[0], torch.tensor([-half_long, -half_short, half_long, half_short]))
    torch.testing.assert_close(anchors[128 + 17], torch.tensor([-12.0, -12, 20, 20]))  # ratio 1, cell y 1, x 1
    torch.testing.assert_close(anchors[256], torch.tensor([-half_short, -half_long, half_short, half_long]))
    assert len(anchors) == 3 * (8 * 16 + 4 * 8 + 2 * 4 + 1 * 2 + 1 * 1)
    torch.testing.assert_close(anchors[-2], torch.tensor([-256.0, -256, 256, 256]))  # P6, ratio 1


def test_stride_of_p6_is_64_where_p5_is_odd():
    generator, layout, _ = generate([(96, 96)])  # P5 has 3 x 3 cells, P6 2 x 2: 96 // 2 would be 48
    square = generator(layout)[-8:-4]  # P6, ratio 1, four cells
    centres = (square[:, :2] + square[:, 2:]) / 2
    assert centres.tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]


def test_anchors_are_float32_under_autocast_and_shared_by_images():
    generator, layout, padded = generate([(32, 32), (32, 32)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scene = generator.scene(layout.sizes, [(32, 32), (32, 32)], padded)
    assert scene.anchors.dtype == torch.float32
    assert scene.layout == layout
    assert torch.equal(scene.anchors, generator(generate([(32, 32)])[1]))


def test_several_scales_are_inside_each_ratio():
    generator = AnchorGenerator((8,), scales=(4.0, 8.0), ratios=(1.0, 4.0))
    sides = generator.cells[0][:, 2:] * 2
    assert sides.tolist() == [[32, 32], [64, 64], [16, 64], [32, 128]]


@pytest.mark.parametrize("sizes", [[(64, 96)], [(40, 70), (64, 96)]])
def test_no_anchor_is_outside_where_all_pad_to_the_same_size(sizes: list[tuple[int, int]]):
    generator, layout, padded = generate(sizes)
    assert generator.outside(layout, sizes, padded) is None


def test_outside_against_every_cell():
    sizes = [(33, 130), (128, 40)]  # padded on their own: 64 x 160 and 128 x 64
    generator, layout, padded = generate(sizes)
    expected = []
    for height, width in ((64, 160), (128, 64)):
        cells = []
        for stride, (rows, columns) in zip(STRIDES, layout.sizes, strict=True):
            for _ in range(3):
                for y in range(rows):
                    cells += [y * stride >= height or x * stride >= width for x in range(columns)]
        expected.append(cells)
    nothing = GroundTruth([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    scene = generator.scene(layout.sizes, sizes, padded, nothing)
    assert scene.outside is not None
    assert scene.outside.tolist() == expected
    assert scene.extents == [(64, 160), (128, 64)]
    assert generator.scene(layout.sizes, sizes, padded).outside is None, "an evaluation needs none"


@pytest.mark.parametrize(
    ("scales", "ratios"),
    [((8.0,), (0.5, 1.0, 2.0)), ((0.5,), (1.0,)), ((4.0, 5.04, 6.35), (1.0,)), ((30.0,), (0.1, 7.0))],
)
def test_the_best_iou_is_that_with_all_anchors(scales, ratios):
    """Against the matrix with every anchor that takes part: of specks, of huge boxes, at the borders, beyond them."""
    torch.manual_seed(1)
    image_sizes = [(96, 96), (97, 260), (320, 33), (200, 200)]  # the batch pads the first three further
    generator = AnchorGenerator(STRIDES, scales, ratios)
    padded = (320, 288)
    boxes, owners, expected = [], [], []
    scene_sizes = P2_TO_P6.sizes(padded)
    truth = GroundTruth([torch.zeros(0, 4)] * 4, [torch.zeros(0, dtype=torch.int64)] * 4)
    scene = generator.scene(scene_sizes, image_sizes, padded, truth)
    assert scene.outside is not None
    for number, (height, width) in enumerate(image_sizes):
        limit = torch.tensor([width, height] * 2, dtype=torch.float32)
        centre, side = torch.rand(120, 2) * limit[:2], 10 ** (3 * torch.rand(120, 2) - 0.5)  # 0.3 to 300 pixels
        own = torch.cat([centre - side / 2, centre + side / 2], 1)
        own[:80] = own[:80].clamp(min=0).minimum(limit)  # the last 40 may reach beyond the image
        own[:20] = own[:20].round()
        corner = torch.tensor([0.0, 0, 8, 8])
        whole = torch.tensor([0.0, 0, width, height])
        own = torch.cat([own, corner[None], whole[None], (limit - corner.flip(0))[None], whole[None] + 2.0])
        overlap = pairwise_iou(own, scene.anchors[~scene.outside[number]])
        boxes.append(own)
        owners.append(torch.tensor([[height, width]]).expand(len(own), 2))
        expected.append(overlap.amax(1))
    found = generator.best_ious(torch.cat(boxes), torch.cat(owners))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-6, atol=1e-7)
    assert float(found.min()) < 0.05
    assert float(found.max()) > 0.5


def test_anchors_of_another_scale_or_with_one_more_ratio():
    generator = AnchorGenerator((4, 8), (4.0, 6.0), (0.5, 1.0))
    torch.testing.assert_close(generator.changed(scale=8.0).cells[1], 2 * generator.cells[1])
    more = generator.changed(ratio=4.0)
    assert (more.scales, more.ratios, more.per_cell) == (generator.scales, (0.5, 1.0, 4.0), 6)
    assert torch.equal(more.cells[0][:4], generator.cells[0])


def test_no_box_has_no_iou():
    assert AnchorGenerator((4,), (4.0,), (1.0,)).best_ious(torch.zeros(0, 4), torch.zeros(0, 2).long()).shape == (0,)
