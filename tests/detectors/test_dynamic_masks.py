"""SOLOv2's masks: a Dice coefficient for each cell, restated and against the published order; memory; wrong numbers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from detector_cases import Batch, Case, random_images, with_masks
from largest import Largest
from spies import record
from torch import Tensor

from rst.detectors import GridDetector, HeadOutputs
from rst.detectors.assignment.grid import grid_cells
from rst.detectors.geometry.masks import pad_masks
from rst.detectors.losses.dynamic_masks import DynamicMasks

SIDES = (64, 96)


def crowded() -> Batch:
    """Two images of different sizes with ten objects each, all of one level, classes and sizes mixed."""
    generator = torch.Generator().manual_seed(7)
    images = random_images(SIDES, (90, 64))
    targets = []
    for image in images:
        space = torch.tensor([image.shape[2] - 30.0, image.shape[1] - 30])
        corner = space * torch.rand(10, 2, generator=generator)
        size = 18 + 10 * torch.rand(10, 2, generator=generator)
        labels = torch.randint(3, (10,), generator=generator)
        targets.append({"boxes": torch.cat((corner, corner + size), dim=1), "labels": labels})
    return images, with_masks(images, targets)


def build(loss: str = "rank_sort", num_classes: int = 3, **options: Any) -> GridDetector:
    model = Case("solov2", {"loss": loss}).build(num_classes, **options)
    assert isinstance(model, GridDetector)
    return model


def outputs_of(model: GridDetector, batch: Batch) -> tuple[HeadOutputs, Any, Tensor, dict[str, Tensor]]:
    """What the loss was given in a step, what the heads predicted, the match of the cells, and the losses."""
    given = record(model.loss, "forward", argument=True)
    predicted, matches = record(model, "predict"), record(model, "assigner")
    losses = model(*batch)
    return given[0], predicted[0], matches[0], losses


def dice_of(kernel: Tensor, features: Tensor, mask: Tensor, soft: bool) -> float:
    """2 sum(p g) / (sum(p²) + 0.001 + sum(g²) + 0.001) on the map of stride 4."""
    p = torch.einsum("e,ehw->hw", kernel.double(), features.double()).sigmoid()
    blocks = mask.double().unfold(0, 4, 4).unfold(1, 4, 4)  # (h, w, 4, 4)
    truth = blocks.mean((2, 3)) if soft else (blocks[:, :, 1:3, 1:3].mean((2, 3)) >= 0.5).double()
    return float(2 * (p * truth).sum() / (p.square().sum() + 0.001 + truth.square().sum() + 0.001))


@pytest.mark.parametrize("soft", [True, False])
def test_each_cell_has_the_dice_coefficient_of_its_own_mask(soft: bool):
    """The published code writes coefficients in the order of the objects to labels in the order of the cells."""
    batch = crowded()
    model = build(soft_masks=soft)
    torch.nn.init.normal_(model.head.kernels.weight, std=0.3)  # masks that differ from cell to cell
    outputs, predicted, match, _ = outputs_of(model, batch)
    labels = torch.cat([target["labels"] for target in batch[1]])
    masks = [mask for target in batch[1] for mask in pad_masks(target["masks"], (96, 96))]
    levels, places = grid_cells(model.head.cells, match.device)
    expected, classes, number_of_cell, owners = [], [], [], []
    for image, cell in (match >= 0).nonzero().tolist():
        level, (column, row) = int(levels[cell]), places[cell].tolist()
        owner = int(match[image, cell])
        kernel = predicted.kernels[level][image, :, row, column].detach()
        expected.append(dice_of(kernel, predicted.features[image].detach(), masks[owner], soft))
        classes.append(predicted.logits[level][image, labels[owner], row, column].item())
        number_of_cell.append((level, image, cell))
        owners.append(owner)
    quality = outputs.quality.double()
    torch.testing.assert_close(quality, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs.classification.positive_logits(), torch.tensor(classes))

    # as published: level by level and image by image, coefficients by (object, cell), labels by cell
    by_object = sorted(range(len(owners)), key=lambda p: (*number_of_cell[p][:2], owners[p], number_of_cell[p][2]))
    by_cell = sorted(range(len(owners)), key=lambda p: number_of_cell[p])
    published = torch.empty_like(quality)
    published[by_cell] = quality[by_object]
    wrong = (published - quality).abs() > 1e-3
    assert len(owners) >= 20
    assert wrong.float().mean() > 0.5, "most cells would get the coefficient of another"


def test_the_mask_loss_is_weighted_with_the_cells_own_scores_in_float64():
    model = build()
    outputs, _, _, losses = outputs_of(model, crowded())
    masks = outputs.tasks["mask"]
    assert isinstance(masks, DynamicMasks)
    weights = outputs.classification.candidate_logits.double().sigmoid().amax(dim=1)
    kernels = masks.coefficients.detach().double().requires_grad_()
    features = masks.maps.detach().double().requires_grad_()
    image = torch.repeat_interleave(torch.arange(2), torch.tensor(masks.counts))
    p = torch.einsum("pe,pehw->phw", kernels, features[image]).sigmoid()
    truths = masks.objects[masks.truth].double()
    dice = 2 * (p * truths).sum((1, 2)) / (p.square().sum((1, 2)) + truths.square().sum((1, 2)) + 0.002)
    mean = (weights * (1 - dice)).sum() / weights.sum()
    factor = (losses["loss_rank"] + losses["loss_sort"]).detach().double() / mean.detach()
    torch.testing.assert_close(losses["loss_mask"].double(), factor * mean, rtol=1e-5, atol=0)
    assert model.statistics["balance_grid"].item() == pytest.approx(factor.item(), rel=1e-5)
    expected = torch.autograd.grad(factor * mean, [kernels, features])
    found = torch.autograd.grad(losses["loss_mask"], [masks.coefficients, masks.maps])
    for gradient, own in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), own, rtol=1e-3, atol=1e-7)


def masks_of(counts: Sequence[int], side: int = 12) -> DynamicMasks:
    generator = torch.Generator().manual_seed(1)
    number, images = sum(counts), len(counts)
    image = torch.repeat_interleave(torch.arange(images), torch.tensor(counts))
    return DynamicMasks(
        torch.randn(number, 8, generator=generator).requires_grad_(),
        torch.randn(images, 8, side, side, generator=generator).requires_grad_(),
        counts,
        4 * image + torch.randint(4, (number,), generator=generator),
        torch.rand(4 * images, side, side, generator=generator) < 0.4,
    )


@pytest.mark.parametrize("at_once", [1, 5])
def test_masks_made_again_in_the_backward_pass_change_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int):
    held, weights = masks_of((7, 0, 12)), torch.linspace(0.1, 2, 19)
    gradients = torch.autograd.grad((weights * held.errors).sum(), [held.coefficients, held.maps])
    monkeypatch.setattr(DynamicMasks, "cells_at_once", at_once * 144)
    again = masks_of((7, 0, 12))
    torch.testing.assert_close(again.quality, held.quality, rtol=1e-6, atol=0)
    loss = (weights * again.errors).sum()
    for _ in range(2):  # `task_balance="magnitude"` goes backward twice
        found = torch.autograd.grad(loss, [again.coefficients, again.maps], retain_graph=True)
        for gradient, expected in zip(found, gradients, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert not found[1][1].any(), "an image without positives has a gradient, of 0"


def test_memory_is_bounded_by_a_part(monkeypatch: pytest.MonkeyPatch):
    """400 masks of 48 x 48 in parts of eight: no tensor of all of them, in neither pass."""
    monkeypatch.setattr(DynamicMasks, "cells_at_once", 8 * 48 * 48)
    masks = masks_of((150, 250), 48)
    held: dict[int, int] = {}  # numbers of each memory: views of the features are one

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        masks.errors.sum().backward()
    assert masks.coefficients.grad is not None
    assert masks.coefficients.grad.any(dim=1).all()
    assert largest.numbers == masks.maps.numel() == 16 * 48 * 48, "the gradient of the features"
    assert sum(held.values()) < 50 * 48 * 48, "400 masks would be held"


def test_wrong_numbers_of_positives():
    masks = masks_of((3, 2))
    with pytest.raises(
        ValueError, match=r"numbers of positives differ: \{'coefficients': 5, 'counts': 4, 'truth': 5\}"
    ):
        DynamicMasks(masks.coefficients, masks.maps, (3, 1), masks.truth, masks.objects)
