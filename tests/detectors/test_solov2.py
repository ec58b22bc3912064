"""RS-SOLOv2 and its baseline (Table 7): starting values, balance, focal and Dice by hand, hard batches, refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from detector_cases import GRIDS, Batch, Case, objects_batch, random_images, step, target, with_masks
from spies import record

from rst.detectors import BackboneSettings, GridDetector, GridSettings, MaskDetectionSettings, solov2
from rst.detectors.losses.score_scaling import ScoreScaling


def build(loss: str = "rank_sort", num_classes: int = 3, **options: Any) -> GridDetector:
    model = Case("solov2", {"loss": loss}).build(num_classes, **options)
    assert isinstance(model, GridDetector)
    return model


def test_starting_values_and_terms(batch: Batch):
    losses = build(num_classes=80)(*batch)
    assert list(losses) == ["loss_rank", "loss_sort", "loss_mask"]
    assert 0.97 <= losses["loss_rank"].item() < 1
    assert 0 <= losses["loss_sort"].item() < 0.2


@pytest.mark.parametrize(
    "options", [{}, {"sorting_error": False}, {"score_weighting": False}, {"score_scaling": False}]
)
def test_the_mask_loss_has_the_value_of_the_ranking_in_every_step(options: dict[str, Any], batch: Batch):
    model = build(**options)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        losses = step(model, *batch)
        assert losses["loss_mask"] == pytest.approx(losses["loss_rank"] + losses.get("loss_sort", 0), rel=1e-5)
        optimizer.step()


@pytest.mark.parametrize("balance", ["magnitude", 2.0])
def test_other_balances(batch: Batch, balance: Any):
    model = build(task_balance=balance)
    values = step(model, *batch)
    factor = model.statistics["balance_grid"].item()
    assert factor == 2 if balance == 2 else factor > 0
    assert values["loss_mask"] > 0


def test_focal_and_dice_by_hand(batch: Batch):
    """Weights 1 and 3: focal loss over the positives, and three times their plain mean of 1 - Dice."""
    model = build("focal")
    given = record(model.loss, "forward", argument=True)
    losses = model(*batch)
    assert list(losses) == ["loss_cls", "loss_mask"]
    ranked, masks = given[0].classification, given[0].tasks["mask"]
    assert losses["loss_mask"].item() == pytest.approx(3 * (1 - masks.dice).mean().item(), rel=1e-5)
    logits = torch.cat([level.detach().flatten() for level in ranked.logits]).double()
    truth = torch.zeros_like(logits)
    truth[ranked.index] = 1
    p = logits.sigmoid()
    focal = torch.where(truth > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()).sum()
    assert losses["loss_cls"].item() == pytest.approx(float(focal) / len(ranked.index), rel=1e-5)
    assert model.statistics["balance_grid"] == 3
    assert model.score_scaling is None


def test_scores_are_scaled_unless_that_is_switched_off(batch: Batch):
    model, plain = build(), build(score_scaling=False)
    assert isinstance(model.score_scaling, ScoreScaling)
    assert plain.score_scaling is None
    with torch.no_grad():
        model.score_scaling.shift.fill_(3.0)
        raised, usual = model.eval()(batch[0]), plain.eval()(batch[0])
    assert all((a["scores"] > b["scores"]).all() for a, b in zip(raised, usual, strict=True))


def test_padding_belongs_to_no_object_and_to_no_detection():
    """Of images of different sizes: truths lie where their image lies, and what is detected is cut to it."""
    images, targets = objects_batch()
    model = build()
    given = record(model.loss, "forward", argument=True)
    model(images, targets)
    truths = given[0].tasks["mask"].objects.split([2, 1])
    assert [tuple(masks.shape) for masks in truths] == [(2, 24, 24), (1, 24, 24)]
    assert not truths[0][:, 16:].any(), "the first image is 64 x 96"
    assert not truths[1][:, :, 16:].any(), "the second is 90 x 64"
    for image, found in zip(images, model.eval()(images), strict=True):
        assert found["masks"].shape[1:] == image.shape[1:]
        assert found["masks"].flatten(1).any(1).all()
        for mask, (left, top, right, bottom) in zip(found["masks"], found["boxes"].int().tolist(), strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [left, top, right, bottom]


def empty_masks(batch: Batch) -> Batch:
    images, targets = batch
    return images, [each | {"masks": torch.zeros_like(each["masks"])} for each in targets]


def one_pixel_each(batch: Batch) -> Batch:
    images, targets = batch
    filled = []
    for each in targets:
        masks = torch.zeros_like(each["masks"])
        for mask, (x, y, _, _) in zip(masks, each["boxes"].int().tolist(), strict=True):
            mask[y, x] = True
        filled.append(each | {"masks": masks})
    return images, filled


@pytest.mark.parametrize(
    ("loss", "precision"), [("rank_sort", None), ("rank_sort", torch.float16), ("focal", torch.bfloat16)], ids=str
)
def test_batches_that_crash_the_published_code(loss: str, precision: torch.dtype | None, batch: Batch):
    """Every mask empty, masks of one pixel, an image of one, no object: it trains on, also in half precision."""
    model = build(loss)
    pixel = random_images((1, 1)), with_masks(random_images((1, 1)), [target([0.0, 0, 1, 1])], round=False)
    batches = [empty_masks(batch), one_pixel_each(batch), pixel, (random_images((40, 64)), [target()])]
    for images, targets in batches:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            losses = model(images, with_masks(images, targets) if not len(targets[0]["boxes"]) else targets)
        torch.stack(list(losses.values())).sum().backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        if images is not pixel[0] and not any(each["masks"].any() for each in targets if "masks" in each):
            assert losses["loss_mask"] == 0
            assert model.statistics["positives_grid"] == 0
            assert loss == "focal" or losses["loss_rank"] == losses["loss_sort"] == 0


def test_more_than_a_hundred_objects_and_one_mask_a_cell():
    generator = torch.Generator().manual_seed(5)
    corner = 70 * torch.rand(150, 2, generator=generator)
    boxes = torch.cat((corner, corner + 2 + 20 * torch.rand(150, 2, generator=generator)), dim=1)
    targets = [{"boxes": boxes, "labels": torch.randint(3, (150,), generator=generator)}]
    model = build()
    given = record(model.loss, "forward", argument=True)
    step(model, random_images((96, 96)), targets)
    index = given[0].classification.index
    assert len(index.unique()) == len(index) > 100
    found = build(detections=replace(GRIDS["detections"], limit=300)).eval()(random_images((96, 96)))[0]
    assert 100 < len(found["scores"]) <= 300


def test_kernels_and_mask_features_know_their_place_and_classes_do_not():
    """On features that are the same everywhere, away from the zeros around a map."""
    model = build(grids=GridSettings((12, 12, 12, 12, 12), GRIDS["grids"].scale_ranges))
    maps = [torch.full((2, 16, side, side), 0.5) for side in (32, 16, 8, 4, 2)]
    logits, kernels = model.head(maps)
    features = model.mask_features(maps)
    assert features.shape == (2, 64, 32, 32)
    for level, own in zip(logits, kernels, strict=True):
        assert (level.shape, own.shape) == ((2, 3, 12, 12), (2, 64, 12, 12))
        inside, placed = level[..., 3:-3, 3:-3].flatten(2), own[..., 3:-3, 3:-3].flatten(2)
        assert inside.std(2).max() < 1e-5
        assert placed.std(2).max() > 1e-3
    assert features[..., 14:18, 14:18].flatten(2).std(2).max() > 1e-3
    assert torch.equal(features[0], features[1])


def test_light_and_full_are_arguments():
    def sizes(model: GridDetector) -> tuple[int, int, int, int]:
        return (
            len(model.head.cls_tower),
            model.head.cls_logits.in_channels,
            model.head.kernels.out_channels,
            model.mask_features.project[0].in_channels,
        )

    with torch.device("meta"):
        full = solov2(backbone=BackboneSettings("resnet101"))
        light = solov2(
            backbone=BackboneSettings("resnet34"), head_channels=256, head_convolutions=2, kernel_channels=128
        )
    assert sizes(full) == (4, 512, 256, 128)
    assert sizes(light) == (2, 256, 128, 128)
    assert full.iou_types == light.iou_types == ("segm",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "alrp"}, "loss='alrp' is not one of rank_sort, focal"),
        ({"loss": "focal", "delta": 0.5}, "delta=0.5 does not go with loss='focal', which does not rank"),
        ({"loss": "focal", "sorting_error": False}, "sorting_error=False does not go with loss='focal'"),
        ({"loss": "focal", "score_scaling": True}, "score_scaling=True does not go with loss='focal'"),
        ({"head_channels": 48}, "head_channels=48 is not a multiple of 32"),
        ({"mask_channels": 32}, "mask_channels=32 is not a multiple of 32"),
        ({"kernel_channels": 100}, "kernel_channels=100 is not a multiple of 32"),
        ({"head_convolutions": 0}, "head_convolutions=0 is not at least 1"),
        ({"num_classes": 0}, "num_classes=0 is not at least 1"),
        (
            {"grids": GridSettings((4, 3), ((1, 9), (4, 20)))},
            "grids.cells has 2 elements, not one for each of 5 levels",
        ),
        (
            {"detections": MaskDetectionSettings(least_cells=(8,))},
            "detections.least_cells has 1 elements, not one for each of 5 levels",
        ),
        ({"task_balance": -1}, "task_balance=-1 is neither"),
        ({"backbone": BackboneSettings("resnet7")}, "backbone.name='resnet7' is not one of"),
    ],
)
def test_refusals(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)
