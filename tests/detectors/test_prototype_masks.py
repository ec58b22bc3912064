"""Masks of prototypes in float64, restated; a few at a time and all at once; what the memory is bounded by."""

import pytest
import torch
from largest import Largest
from torch import Tensor
from torch.nn import functional as F

from rst.detectors.detections.paste import upsampled_masks
from rst.detectors.geometry.masks import shrink_masks
from rst.detectors.losses.prototype_masks import PrototypeMasks, semantic_cross_entropy

COUNTS, OBJECTS = [3, 0, 4], [0, 2, 0, 3, 3, 4, 5]  # positives of each image, their objects


def masks(dtype: torch.dtype = torch.float32) -> PrototypeMasks:
    """Seven masks of six objects in three images; boxes at borders and beyond, in cells of 12 x 9."""
    generator = torch.Generator().manual_seed(0)
    boxes = [[1.5, 2, 6.2, 8], [0, 0, 9, 12], [4, 4, 4.2, 4.2], [-3, 5, 2, 20], [7, 1, 9, 3], [2.5, 2.5, 7.5, 9.5]]
    return PrototypeMasks(
        coefficients=torch.randn(7, 5, generator=generator).requires_grad_(),
        maps=torch.rand(3, 5, 12, 9, generator=generator, dtype=dtype).requires_grad_(),
        counts=COUNTS,
        truth=torch.tensor(OBJECTS),
        objects=torch.rand(6, 12, 9, generator=generator) > 0.5,
        boxes=torch.tensor(boxes),
    )


def restated(task: PrototypeMasks) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each mask probabilities, truth, which cells count, and the area of its box, in float64."""
    found, images = [], [0, 0, 0, 2, 2, 2, 2]
    for number, (image, truth) in enumerate(zip(images, OBJECTS, strict=True)):
        logits = torch.zeros(12, 9, dtype=torch.float64)
        for k in range(5):
            logits = logits + task.coefficients[number, k].double() * task.maps[image, k].double()
        left, top, right, bottom = task.boxes[truth].double()
        inside = torch.zeros(12, 9, dtype=torch.bool)
        for y in range(12):
            for x in range(9):
                inside[y, x] = bool(left - 1 <= x < right + 1 and top - 1 <= y < bottom + 1)
        found.append((logits.sigmoid(), task.objects[truth].double(), inside, (right - left) * (bottom - top)))
    return found


@pytest.mark.parametrize("at_once", [1, 250, 1 << 23])
def test_dice_and_its_gradient(monkeypatch, at_once: int):
    monkeypatch.setattr(PrototypeMasks, "cells_at_once", at_once)
    task, weights = masks(), torch.arange(1.0, 8)
    (task.errors * weights).sum().backward()
    other = masks()
    dice = []
    for p, t, inside, _ in restated(other):
        p = p * inside
        dice.append(2 * (p * t).sum() / (p.square().sum() + t.square().sum() + 1e-5))
    torch.testing.assert_close(task.quality.double(), torch.stack(dice), rtol=1e-5, atol=1e-7)
    ((1 - torch.stack(dice)) * weights).sum().backward()
    for own, expected in ((task.coefficients, other.coefficients), (task.maps, other.maps)):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 1 << 23])
def test_cross_entropy_with_and_without_sizes(monkeypatch, at_once: int):
    monkeypatch.setattr(PrototypeMasks, "cells_at_once", at_once)
    sums, areas = [], []
    for p, t, inside, area in restated(masks()):
        sums.append((-(t * p.log() + (1 - t) * (1 - p).log()) * inside).sum())
        areas.append(area.clamp(min=1))
    plain, by_size = torch.stack(sums) / (12 * 9), torch.stack(sums) / torch.stack(areas)
    torch.testing.assert_close(masks().cross_entropy(by_size=False).double(), plain.mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(masks().cross_entropy(by_size=True).double(), by_size.mean(), rtol=1e-5, atol=0)


def test_half_precision_is_summed_in_float32():
    exact, half = masks(), masks(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        quality = half.quality
    assert quality.dtype == torch.float32
    torch.testing.assert_close(quality, exact.quality, rtol=0.05, atol=0.01)


def test_a_thousand_masks_are_never_there_at_once():
    """138 x 138 cells each: 19 million numbers, in the loss as in its gradient."""
    generator = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(1000, 2, generator=generator)
    coefficients = torch.randn(1000, 4, generator=generator, requires_grad=True)
    prototypes = torch.rand(2, 4, 138, 138, generator=generator, requires_grad=True)
    truth, objects = torch.arange(1000) % 8, torch.rand(8, 138, 138, generator=generator) > 0.5
    task = PrototypeMasks(coefficients, prototypes, [400, 600], truth, objects, torch.cat((corner, corner + 30), 1))
    with Largest() as largest:
        task.errors.sum().backward()
    assert largest.numbers <= PrototypeMasks.cells_at_once < 1000 * 138**2 / 2
    assert coefficients.grad.any(dim=1).all()


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_masks_shrink_as_bilinear_interpolation_has_it(stride: int, dtype: torch.dtype):
    whole = (torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0)) > 0.4).to(dtype)
    size = (-(-37 // stride), -(-51 // stride))
    padded = F.pad(whole[:, :37, :51], (0, size[1] * stride - 51, 0, size[0] * stride - 37))
    expected = F.interpolate(padded[None].float(), size=size, mode="bilinear", align_corners=False)[0] > 0.5
    assert torch.equal(shrink_masks(whole[:, :37, :51], stride, size), expected)
    assert shrink_masks(whole[:0], stride, (20, 28)).shape == (0, 20, 28)


def test_a_cell_shows_a_class_once():
    generator = torch.Generator().manual_seed(0)
    logits, own = torch.randn(2, 3, 4, 5, generator=generator), torch.rand(3, 4, 5, generator=generator) > 0.5
    labels = torch.tensor([2, 2, 0])
    total = 0.0
    for image in range(2):
        for label in range(3):
            truth = own[labels == label].any(dim=0).double() if image else torch.zeros(4, 5, dtype=torch.float64)
            total += F.binary_cross_entropy_with_logits(logits[image, label].double(), truth, reduction="sum").item()
    nothing = torch.zeros(0, 4, 5, dtype=torch.bool)
    found = semantic_cross_entropy(logits, [nothing, own], [labels[:0], labels])
    assert found.item() == pytest.approx(total / (2 * 4 * 5), rel=1e-6)


def test_masks_of_detections_are_cut_to_their_boxes(monkeypatch):
    monkeypatch.setattr("rst.detectors.detections.paste.PIXELS_AT_ONCE", 1)
    probabilities = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[2.5, 3, 11.2, 17], [0, 0, 22, 18], [21.5, 17.5, 22, 18]])
    found = upsampled_masks(lambda some: probabilities[some], boxes, (18, 22), 4)
    whole = F.interpolate(probabilities[None], scale_factor=4, mode="bilinear", align_corners=False)[0, :, :18, :22]
    expected = whole >= 0.5
    expected[0, :3], expected[0, 17:], expected[0, :, :2], expected[0, :, 12:] = False, False, False, False
    expected[2, :17], expected[2, :, :21] = False, False
    assert torch.equal(found, expected)
    assert upsampled_masks(lambda some: probabilities[some], boxes[:0], (18, 22), 4).shape == (0, 18, 22)
