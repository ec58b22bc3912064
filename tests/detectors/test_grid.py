"""SOLOv2's assignment against a plain restatement, cell by cell; first object, ranges, centres, empty masks."""

import math
from typing import Any

import pytest
import torch
from detector_cases import with_masks
from torch import Tensor

from rst.detectors import GridSettings
from rst.detectors.assignment.grid import GridAssigner, cell_boxes, grid_cells
from rst.detectors.assignment.scene import NEGATIVE
from rst.detectors.geometry.ground_truth import GroundTruth
from rst.detectors.geometry.mask_shapes import coarse_masks, mask_boxes, mass_centres
from rst.detectors.geometry.masks import pad_masks

SETTINGS = GridSettings((10, 8, 6, 4, 3), ((1, 20), (12, 40), (24, 64), (40, 96), (64, 200)))
SIZE = (96, 128)


def scene(generator: torch.Generator, objects: tuple[int, ...]) -> GroundTruth:
    """Images of random sizes in one frame, objects of 1 to 100 pixels with elliptic masks, some of them half or whole
    outside of their image."""
    targets, images = [], []
    for count in objects:
        sides = torch.rand(count, 2, generator=generator) ** 2 * 100 + 1
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([140.0, 110]) - 10
        boxes = torch.cat((corner, corner + sides), dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(3, (count,), generator=generator)})
        height, width = (int(torch.randint(side // 2, side + 1, (), generator=generator)) for side in SIZE)
        images.append(torch.zeros(3, height, width))
    masked = with_masks(images, targets)
    return GroundTruth.of([each | {"masks": pad_masks(each["masks"], SIZE)} for each in masked])


def restated(truth: GroundTruth, settings: GridSettings) -> Tensor:
    """(n, N): object by object, cell by cell; a cell that is taken stays."""
    (height, width), before, matches = SIZE, 0, []
    assert truth.masks is not None
    for boxes, masks in zip(truth.boxes, truth.masks, strict=True):
        levels = []
        for side, (smallest, largest) in zip(settings.cells, settings.scale_ranges, strict=True):
            grid = torch.full((side, side), NEGATIVE)
            for number, (box, mask) in enumerate(zip(boxes.double().tolist(), masks, strict=True)):
                w, h = box[2] - box[0], box[3] - box[1]
                pixels = mask.nonzero().double() + 0.5
                if not smallest <= math.sqrt(w * h) <= largest or not len(pixels):
                    continue
                y, x = pixels.mean(dim=0).tolist()
                for row in range(side):
                    for column in range(side):
                        ends = [
                            (column, x, settings.centre * w / 2, width / side),
                            (row, y, settings.centre * h / 2, height / side),
                        ]
                        near = all(
                            abs(place - math.floor(middle / cell)) <= 1
                            and math.floor((middle - half) / cell) <= place <= math.floor((middle + half) / cell)
                            for place, middle, half, cell in ends
                        )
                        if near and grid[row, column] == NEGATIVE:
                            grid[row, column] = before + number
            levels.append(grid.flatten())
        matches.append(torch.cat(levels))
        before += len(boxes)
    return torch.stack(matches)


@pytest.mark.parametrize("centre", [0.2, 0.0, 0.9])
def test_against_the_restatement(centre: float):
    generator = torch.Generator().manual_seed(int(10 * centre))
    settings = GridSettings(SETTINGS.cells, SETTINGS.scale_ranges, centre)
    positives = shared = 0
    for objects in ((5, 0, 12), (1,), (0,), (30, 7)):
        truth = scene(generator, objects)
        got, expected = GridAssigner(settings)(truth, SIZE), restated(truth, settings)
        assert torch.equal(got, expected)
        assert got.dtype == torch.int64
        positives += int((got >= 0).sum())
        alone = [
            GridAssigner(settings)(GroundTruth([b[i : i + 1]], [y[i : i + 1]], [m[i : i + 1]]), SIZE) >= 0
            for b, y, m in zip(truth.boxes, truth.labels, truth.masks or (), strict=True)
            for i in range(len(b))
        ]
        shared += int(sum(cells.sum() for cells in alone)) - int((got >= 0).sum())
    assert positives > 30
    assert shared > 0, "centres of objects overlap in this test"


def target(*boxes: list[float], masks: Tensor | None = None) -> GroundTruth:
    given = [{"boxes": torch.tensor(boxes), "labels": torch.zeros(len(boxes), dtype=torch.int64)}]
    filled = with_masks([torch.zeros(3, *SIZE)], given, round=False)
    return GroundTruth.of([filled[0] | ({} if masks is None else {"masks": masks})])


def cells_of(match: Tensor, number: int, level: int) -> list[list[int]]:
    """Columns and rows of an object's cells on a level."""
    levels, places = grid_cells(SETTINGS.cells, match.device)
    return places[(match[0] == number) & (levels == level)].tolist()


def test_the_first_object_of_a_cell_keeps_it():
    match = GridAssigner(SETTINGS)(target([20.0, 20, 34, 32], [21.0, 20, 35, 32], [90.0, 70, 104, 84]), SIZE)
    first, second, third = (cells_of(match, number, 0) for number in range(3))
    assert first
    assert third
    assert not second, "it has the same cell, and comes later"
    swapped = GridAssigner(SETTINGS)(target([21.0, 20, 35, 32], [20.0, 20, 34, 32]), SIZE)
    assert cells_of(swapped, 0, 0) == first


def test_a_region_is_at_most_three_by_three_around_the_mass_and_not_the_box():
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 10:20, 4:24] = True  # the box says far more
    settings = GridSettings(SETTINGS.cells, ((1, 500),) * 5, centre=1.0)
    match = GridAssigner(settings)(target([0.0, 0, 120, 90], masks=masks), SIZE)
    assert cells_of(match, 0, 0) == [[column, row] for row in (0, 1, 2) for column in (0, 1, 2)]  # around (1, 1)


@pytest.mark.parametrize(
    ("side", "levels"), [(1.0, [0]), (15.0, [0, 1]), (20.0, [0, 1]), (30.0, [1, 2]), (90.0, [3, 4])]
)
def test_levels_by_the_root_of_the_area_ends_included(side: float, levels: list[int]):
    match = GridAssigner(SETTINGS)(target([4.0, 4, 4 + side, 4 + side]), SIZE)
    assert [level for level in range(5) if cells_of(match, 0, level)] == levels
    stretched = GridAssigner(SETTINGS)(target([4.0, 4, 4 + side, 4 + side / 2], [4.0, 4, 4 + side / 2, 4 + side]), SIZE)
    assert bool((stretched >= 0).any()) == (side > 1)


def test_no_positives_without_a_mask_or_outside_all_ranges():
    empty = torch.zeros(1, *SIZE, dtype=torch.bool)
    match = GridAssigner(SETTINGS)(target([20.0, 20, 50, 50], masks=empty), SIZE)
    assert (match == NEGATIVE).all()
    assert (GridAssigner(SETTINGS)(target([0.0, 0, 9e4, 9e4]), SIZE) == NEGATIVE).all()
    one_pixel = empty.clone()
    one_pixel[0, 95, 127] = True
    assert (GridAssigner(SETTINGS)(target([127.0, 95, 128, 96], masks=one_pixel), SIZE) == 0).sum() == 1


def test_masks_of_bytes_are_masks():
    truth = target([20.0, 20, 50, 50], [60.0, 8, 90, 70])
    assert truth.masks is not None
    as_bytes = GroundTruth(truth.boxes, truth.labels, [255 * mask.to(torch.uint8) for mask in truth.masks])
    assert torch.equal(GridAssigner(SETTINGS)(truth, SIZE), GridAssigner(SETTINGS)(as_bytes, SIZE))
    for soft in (True, False):
        of_bytes = coarse_masks(255 * truth.masks[0].to(torch.uint8), soft)
        assert torch.equal(of_bytes, coarse_masks(truth.masks[0], soft))


def test_cells_divide_the_frame():
    boxes = cell_boxes((2, 1), SIZE, torch.device("cpu"))
    assert boxes.tolist() == [[0, 0, 64, 48], [64, 0, 128, 48], [0, 48, 64, 96], [64, 48, 128, 96], [0, 0, 128, 96]]


def test_centres_boxes_and_coarse_masks_by_hand():
    masks = torch.zeros(4, 8, 12, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 7, 11] = True
    masks[2, 0, 0] = masks[2, 7, 3] = True
    centres = mass_centres(masks)
    assert centres[:3].tolist() == [[4.0, 2.0], [11.5, 7.5], [2.0, 4.0]]
    assert centres[3].isnan().all()
    assert mask_boxes(masks)[:3].tolist() == [[2, 1, 6, 3], [11, 7, 12, 8], [0, 0, 4, 8]]
    left, top, right, bottom = mask_boxes(masks)[3].tolist()
    assert left > right
    assert top > bottom
    assert mask_boxes(masks[:0]).shape == (0, 4)
    coarse = coarse_masks(masks, soft=False)
    assert coarse.shape == (4, 2, 3)
    assert coarse[0].tolist() == [[True, True, False], [False, False, False]], "2 and 2 of the middle four pixels"
    assert not coarse[1:].any()
    shares = coarse_masks(masks, soft=True)
    assert shares[0].tolist() == [[4 / 16, 4 / 16, 0], [0, 0, 0]]
    assert shares[1].tolist() == [[0, 0, 0], [0, 0, 1 / 16]]


def test_coarse_masks_are_means_or_rounded_bilinear_ones():
    masks = torch.rand(6, 32, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    resized = torch.nn.functional.interpolate(masks[None].float(), scale_factor=0.25, mode="bilinear")[0]
    assert torch.equal(coarse_masks(masks, soft=False), resized >= 0.5)
    assert torch.equal(coarse_masks(masks, soft=True), torch.nn.functional.avg_pool2d(masks.float(), 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": (40, 0, 24, 16, 12)}, "grids.cells=0 is not at least 1"),
        ({"cells": (40, 36)}, "grids.scale_ranges has 5 ranges for 2 levels of grids.cells"),
        ({"scale_ranges": ((1, 96),) * 4 + ((8, 4),)}, r"grids.scale_ranges has \[8, 4\], not \[smallest, largest\]"),
        ({"scale_ranges": ((0, 96),) * 5}, "grids.scale_ranges=0 is not above 0"),
        ({"centre": 1.5}, "grids.centre=1.5 is not a number from 0 to 1"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        GridSettings(**options)
