"""Mask targets against a plain restatement, for thousands of boxes: inside, across borders, specks, outside."""

import numpy as np
import pytest
import torch
from plain_masks import plain_crop
from torch import Tensor

from rst.detectors.geometry import masks as module
from rst.detectors.geometry.masks import crop_masks

SIZE = (60, 90)


def random_masks(count: int, generator: torch.Generator) -> Tensor:
    """Blobs: smoothed noise above its median, (count, 60, 90) bool."""
    noise = torch.rand(count, 1, *SIZE, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4, count_include_pad=False)[:, 0]
    return smooth > smooth.flatten(1).median(dim=1).values[:, None, None]


def random_boxes(kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Boxes (count, 4) in pixels of an image of 60 x 90."""
    corner, extent = torch.rand(count, 2, generator=generator), torch.rand(count, 2, generator=generator)
    size = torch.tensor([90.0, 60.0])
    if kind == "inside":
        low = corner * size * 0.7
        return torch.cat((low, low + extent * (size - low)), dim=1)
    if kind == "across the border":
        low = (corner - 0.5) * size * 1.5
        return torch.cat((low, low + extent * size), dim=1)
    if kind == "specks":
        low = corner * size
        return torch.cat((low, low + extent * 0.9), dim=1)
    if kind == "outside":
        low = size + 2 + corner * 40
        return torch.cat((low, low + extent * 30), dim=1)
    whole = (corner * size).round()  # on the grid
    return torch.cat((whole, whole + 1 + (extent * 20).round()), dim=1)


@pytest.mark.parametrize("kind", ["inside", "across the border", "specks", "outside", "whole pixels"])
@pytest.mark.parametrize("side", [7, 28])
def test_equal_a_plain_restatement(kind: str, side: int):
    generator = torch.Generator().manual_seed(side)
    masks, boxes = random_masks(5, generator), random_boxes(kind, 400, generator)
    cut = crop_masks([masks[:2], masks[2:]], boxes, [100, 0, 150, 0, 150], side)
    assert (cut.shape, cut.dtype) == ((400, side, side), torch.float32)
    owners = [0] * 100 + [2] * 150 + [4] * 150
    shares = np.stack([plain_crop(masks[i].numpy(), box, side) for i, box in zip(owners, boxes.tolist(), strict=True)])
    decided = np.abs(shares - 0.5) > 1e-4  # elsewhere float32 may round to the other side
    assert decided.mean() > 0.9
    assert ((shares >= 0.5) == cut.numpy().astype(bool))[decided].all()
    if kind == "inside":
        assert 0.2 < cut.mean() < 0.8


def test_cut_a_few_at_a_time_they_are_the_same(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(1)
    masks, boxes = random_masks(6, generator), random_boxes("inside", 60, generator)
    counts = [10, 0, 20, 5, 0, 25]
    together = crop_masks([masks], boxes, counts, 28)
    planes = []
    original = module.roi_align
    monkeypatch.setattr(module, "roi_align", lambda x, *a, **k: planes.append(len(x)) or original(x, *a, **k))
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 2 * SIZE[0] * SIZE[1])
    assert torch.equal(crop_masks([masks[:4], masks[4:]], boxes, counts, 28), together)
    assert planes == [2, 1, 1], "without those that have no box"


def test_bytes_are_masks_as_booleans_are():
    generator = torch.Generator().manual_seed(2)
    masks, boxes = random_masks(1, generator), random_boxes("inside", 9, generator)
    assert torch.equal(crop_masks([masks], boxes, [9], 28), crop_masks([masks.byte()], boxes, [9], 28))


def test_no_box_and_no_mask():
    assert crop_masks([torch.zeros(0, 4, 4).bool()], torch.zeros(0, 4), [], 28).shape == (0, 28, 28)
    assert crop_masks([torch.zeros(3, 4, 4).bool()], torch.zeros(0, 4), [0, 0, 0], 28).shape == (0, 28, 28)
