"""Dice of numbers worked by hand, the frame of a padded batch, and masks pasted into an image pixel by pixel."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from rst.detectors.detections.paste import paste_masks
from rst.detectors.geometry.masks import pad_masks, paired_dice


@pytest.mark.parametrize(
    ("first", "second", "dice"),
    [
        ([1.0, 1, 0, 0], [1.0, 1, 0, 0], 1.0),
        ([1.0, 1, 0, 0], [0.0, 1, 1, 1], 2 / 5),
        ([1.0, 1, 0, 0], [0.0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [1.0, 1, 0, 0], 2 / 3),  # 2 * 1 / (4 * 0.25 + 2): squares, not sums
        ([0.0, 0, 0, 0], [1.0, 0, 0, 0], 0.0),
        ([0.0, 0, 0, 0], [0.0, 0, 0, 0], 0.0),  # both empty: a floor, not 0 / 0
    ],
)
def test_dice_worked_by_hand(first: list[float], second: list[float], dice: float):
    a = torch.tensor(first).view(1, 2, 2).requires_grad_()
    b = torch.tensor(second).view(1, 2, 2)
    found = paired_dice(a, b)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(dice, abs=1e-5)
    assert paired_dice(b, a).item() == found.item() <= 1
    found.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_dice_pairs_masks_in_their_order():
    first, second = torch.eye(4).view(4, 2, 2), torch.eye(4)[[0, 2, 1, 3]].view(4, 2, 2)
    assert paired_dice(first, second).round().tolist() == [1, 0, 0, 1]
    assert paired_dice(first[:0], second[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("objects", [0, 2])
def test_padding_is_empty_and_lies_below_and_to_the_right(objects: int, dtype: torch.dtype):
    masks = torch.ones(objects, 3, 5, dtype=dtype)
    padded = pad_masks(masks, (4, 8))
    assert (padded.shape, padded.dtype) == ((objects, 4, 8), dtype)
    assert torch.equal(padded[:, :3, :5], masks)
    assert padded.sum() == masks.sum()
    assert pad_masks(masks, (3, 5)) is masks


def probability(mask: Tensor, x: float, y: float) -> float:
    """Bilinear in the unit box: cell i is at (i + 0.5) / S, and beyond the outermost ones the value stays."""
    side = len(mask)
    total = 0.0
    column, row = (min(max(value * side - 0.5, 0.0), side - 1.0) for value in (x, y))
    for i, j in itertools.product(range(side), repeat=2):
        total += max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j)) * mask[i, j].item()
    return total


def restated(masks: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float) -> Tensor:
    """The same pixel by pixel; NaN where rounding decides."""
    pasted = torch.zeros(len(boxes), *shape)
    for k, (left, top, right, bottom) in enumerate(boxes.tolist()):
        for row, column in itertools.product(range(shape[0]), range(shape[1])):
            x, y = (column + 0.5 - left) / (right - left), (row + 0.5 - top) / (bottom - top)
            margin = min(x, 1 - x, y, 1 - y)
            value = probability(masks[k], x, y)
            pasted[k, row, column] = margin >= 0 and value >= threshold
            if abs(margin) < 1e-5 or (margin >= 0 and abs(value - threshold) < 1e-5):
                pasted[k, row, column] = math.nan
    return pasted


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("side", [1, 5])
def test_pasting_against_a_slow_restatement(side: int, threshold: float):
    boxes = torch.tensor(
        [
            [3.2, 2.7, 17.9, 11.4],
            [-6.3, -4.1, 9.2, 8.8],  # across two borders
            [15.5, 9.1, 40.0, 33.3],
            [-20.0, -9.0, 50.0, 31.0],  # all of the image is inside
            [30.0, 4.0, 44.0, 9.0],  # outside
            [-12.0, -8.0, -1.0, -3.0],
            [0.0, 14.0, 24.0, 19.0],  # it begins at the lower border
            [6.2, 6.1, 6.9, 6.95],  # of one pixel: its centre is inside
            [6.6, 6.6, 6.95, 6.9],  # and here it is not
            [5.3, 1.2, 5.8, 12.7],  # narrow
        ]
    )
    masks = torch.rand(len(boxes), side, side, generator=torch.Generator().manual_seed(side))
    masks[7] = 1
    expected = restated(masks, boxes, (14, 24), threshold)
    found = paste_masks(masks, boxes, (14, 24), threshold)
    assert (found.shape, found.dtype) == ((len(boxes), 14, 24), torch.bool)
    sure = ~expected.isnan()
    assert sure.float().mean() > 0.99
    assert torch.equal(found[sure], expected[sure].bool())
    assert (found.flatten(1).sum(1) > 0).tolist() == (expected.nansum((1, 2)) > 0).tolist()
    assert not found[[4, 5, 6, 8]].any()
    assert found[7].nonzero().tolist() == [[6, 6]]


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_a_mask_of_as_many_pixels_as_cells_comes_back_as_it_is(threshold: float):
    masks = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[3.0, 2, 10, 9], [-2.0, 9, 5, 16]])
    found = paste_masks(masks, boxes, (12, 11), threshold)
    assert torch.equal(found[0, 2:9, 3:10], masks[0] >= threshold)
    assert torch.equal(found[1, 9:12, :5], masks[1, :3, 2:] >= threshold)
    assert found.sum() == (masks[0] >= threshold).sum() + (masks[1, :3, 2:] >= threshold).sum()


def test_boxes_without_area_paste_little_and_no_detections_nothing():
    boxes = torch.tensor([[4.0, 4, 4, 9], [4.0, 4, 9, 4], [4.3, 2, 4.3, 9], [4.5, 4.5, 4.5, 4.5]])
    found = paste_masks(torch.ones(4, 5, 5), boxes, (12, 12))
    assert not found[:3].any()
    assert found[3].nonzero().tolist() in ([], [[4, 4]])
    assert paste_masks(torch.zeros(0, 5, 5), torch.zeros(0, 4), (12, 11)).shape == (0, 12, 11)
