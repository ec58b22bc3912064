"""YOLACT: anchors, the original losses in float64, its switches, masks of detections, and batches that broke it."""

from typing import Any

import pytest
import torch
from detector_cases import Batch, Case, random_images, step, target, with_masks
from spies import record
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from rst.detectors import (
    NEGATIVE,
    BackboneSettings,
    DetectionSettings,
    PrototypeDetector,
    PrototypeSettings,
    TaskWeights,
    yolact,
)
from rst.detectors.assignment.max_iou import MaxIoUMatcher
from rst.detectors.losses.hard_negatives import HardNegativeCrossEntropy

BACKBONE = BackboneSettings("resnet18", frozen_stages=4, fpn_channels=16)  # of few and fast convolutions
ROWS = ("hard_negatives", "size_normalisation", "semantic_head")  # heuristics of table 6


def build(loss: str = "rank_sort", num_classes: int = 3, **options: Any) -> PrototypeDetector:
    model = Case("yolact", {"loss": loss}).build(num_classes, **({"backbone": BACKBONE} | options))
    assert isinstance(model, PrototypeDetector)
    return model


def test_the_anchors_of_550_pixels():
    """19,248 (Bolya et al., section 4), spread evenly: 69, 35, 18, 9, 5 cells along a side; 24 to 384 pixels large."""
    model = build(image_side=550)
    sizes = model.backbone.pyramid.sizes((550, 550))
    assert [side for side, _ in sizes] == [69, 35, 18, 9, 5]
    anchors = model.anchors.scene(sizes, [(550, 550)], (550, 550)).anchors
    assert anchors.shape == (19_248, 4)
    first = 0
    for cells, side in zip((69, 35, 18, 9, 5), (24, 48, 96, 192, 384), strict=True):
        own = anchors[first : first + 3 * cells**2].view(3, cells, cells, 4)
        first += 3 * cells**2
        width, height = (own[..., 2:] - own[..., :2])[:, 0, 0].unbind(1)
        torch.testing.assert_close(width * height, torch.full((3,), float(side**2)), rtol=1e-4, atol=0)
        torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2]), rtol=1e-4, atol=0)
        centres = 550 / cells * (torch.arange(cells) + 0.5)
        torch.testing.assert_close((own[0, 0, :, 0] + own[0, 0, :, 2]) / 2, centres, rtol=0, atol=1e-3)
        torch.testing.assert_close((own[0, :, 0, 1] + own[0, :, 0, 3]) / 2, centres, rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", [None, 550])
def test_the_best_iou_of_a_box_is_that_with_all_anchors(side: int | None):
    model, generator = build(image_side=side), torch.Generator().manual_seed(0)
    corner = 500 * torch.rand(50, 2, generator=generator)
    boxes = torch.cat((corner, corner + 4 + 200 * torch.rand(50, 2, generator=generator)), dim=1)
    for size in ((550, 550), (333, 470)):
        anchors = model.anchors.scene(model.backbone.pyramid.sizes(size), [size], size).anchors
        found = model.anchors.best_ious(boxes, torch.tensor([size] * 50))
        torch.testing.assert_close(found, box_iou(boxes, anchors).amax(1))


def test_an_object_without_a_good_anchor_takes_the_first_of_the_best_alone():
    overlap = torch.tensor([[0.2, 0.45, 0.3, 0.45, 0.0], [0.6, 0.1, 0.45, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    every = MaxIoUMatcher(0.5, 0.4, low_quality=True)(overlap)
    assert every.tolist() == [1, 0, -2, 0, NEGATIVE]
    assert MaxIoUMatcher(0.5, 0.4, low_quality=True, every_tie=False)(overlap).tolist() == [1, 0, -2, -2, NEGATIVE]


@pytest.mark.parametrize("options", [{}, {"masks": PrototypeSettings(8, 16, limit=3), "sorting_error": False}])
def test_boxes_and_masks_have_the_value_of_the_ranking_in_every_step(options: dict[str, Any], batch: Batch):
    model = build(**options)
    given = record(model.loss, "forward", argument=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        losses = step(model, *batch)
        ranking = losses["loss_rank"] + losses.get("loss_sort", 0)
        assert losses["loss_mask"] == pytest.approx(ranking, rel=1e-5)
        assert losses["loss_bbox"] == pytest.approx(ranking, rel=1e-5)
        optimizer.step()
    masks, positives = given[-1].tasks["mask"], len(given[-1].classification.index)
    assert len(masks.coefficients) == sum(masks.counts) == min(positives, 3 if masks.kept is not None else positives)
    assert (masks.kept is not None) == ("masks" in options)


def test_a_mask_and_its_weight_belong_to_its_positive(batch: Batch):
    """Also where only some of the positives have a mask: each has its own image, coefficients and object."""
    images, targets = batch
    model = build(masks=PrototypeSettings(8, 16, limit=7))
    given, outputs = record(model.loss, "forward", argument=True), record(model.head, "forward")
    model(images, targets)
    masks, boxes = given[0].tasks["mask"], given[0].tasks["bbox"]
    assert len(masks.kept.unique()) == 7 < len(given[0].classification.index)
    objects = torch.cat([one["boxes"] for one in targets])
    assert torch.equal(objects[masks.truth], boxes.truths[masks.kept])
    images_of = torch.arange(2).repeat_interleave(torch.tensor(masks.counts))
    assert torch.equal(images_of, torch.tensor([0, 0, 1])[masks.truth])
    cells = [level.unflatten(1, (3, 8)).flatten(3).movedim(2, -1).flatten(1, 2) for level in outputs[0].coefficients]
    cells = torch.cat(cells, dim=1)  # (n, anchors, 8)
    for own, image in zip(masks.coefficients, images_of.tolist(), strict=True):
        assert (cells[image] == own).all(dim=1).any()
    weights = torch.rand(len(given[0].classification.index))
    assert torch.equal(masks.weights(weights), weights[masks.kept])


@pytest.mark.parametrize(("ratio", "by_size"), [(3, True), (None, False)])
def test_the_original_losses_in_float64(ratio: int | None, by_size: bool, batch: Batch):
    """Restated image by image: all positives, and of the negatives three for each that look least like background."""
    images, targets = batch
    images, targets = [*images, images[0]], [*targets, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}]
    model = build("cross_entropy", hard_negatives=ratio is not None, size_normalisation=by_size)
    assert isinstance(model.loss, HardNegativeCrossEntropy)
    outputs, matches = record(model.head, "forward"), record(model.assigner, "__call__")
    model.assigner = type("Spy", (), {"__call__": lambda self, *a: matches.append(found := kept(*a)) or found})()
    kept = build("cross_entropy").assigner
    given = record(model.loss, "forward", argument=True)
    losses = model(images, with_masks(images, targets))
    (match,), boxes, masks = matches, given[0].tasks["bbox"], given[0].tasks["mask"]
    rows = [level.unflatten(1, (3, 4)).flatten(3).movedim(2, -1).flatten(1, 2) for level in outputs[0].logits]
    scores = torch.cat(rows, dim=1).double().log_softmax(-1)  # (n, anchors, 4)
    labels = torch.cat([one["labels"] for one in targets])
    total, positives = 0.0, int((match >= 0).sum())
    assert (match == -2).any()
    for of_image, own in zip(match, scores, strict=True):
        positive = of_image >= 0
        total -= own[positive, labels[of_image[positive]]].sum().item()
        negatives = (-own[of_image == NEGATIVE, 3]).sort(descending=True).values
        total += negatives[: None if ratio is None else ratio * int(positive.sum())].sum().item()
    assert losses["loss_cls"].item() == pytest.approx(total / positives, rel=1e-5)
    expected = (
        1.5
        * F.smooth_l1_loss(
            boxes.deltas, boxes.coder.encode_single(boxes.truths, boxes.references), beta=1.0, reduction="sum"
        )
        / positives
    )
    torch.testing.assert_close(losses["loss_bbox"], expected)
    torch.testing.assert_close(losses["loss_mask"], 6.125 * masks.cross_entropy(by_size=by_size))
    assert {"loss_semantic", "loss_cls", "loss_bbox", "loss_mask"} == losses.keys()


@pytest.mark.parametrize("without", [(), ("semantic_head",), ROWS])
def test_the_rows_of_table_6_train(without: tuple[str, ...], batch: Batch):
    losses = step(build("cross_entropy", **dict.fromkeys(without, False)), *batch)
    assert ("loss_semantic" in losses) == ("semantic_head" not in without)
    assert all(value > 0 for value in losses.values())


def test_the_factors_of_the_terms(batch: Batch):
    usual = build("cross_entropy", task_weights=TaskWeights())(*batch)
    other = build("cross_entropy", task_weights=TaskWeights(2.0, 3.0, 12.25, 0.5))(*batch)
    for name, factor in (("cls", 2.0), ("bbox", 2.0), ("mask", 2.0), ("semantic", 0.5)):
        torch.testing.assert_close(other[f"loss_{name}"], factor * usual[f"loss_{name}"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "focal"}, "loss='focal' is not one of rank_sort, cross_entropy"),
        ({"hard_negatives": True}, "hard_negatives=True does not go with loss='rank_sort'"),
        ({"task_weights": TaskWeights()}, "task_weights=.* does not go with loss='rank_sort'"),
        ({"loss": "cross_entropy", "delta": 0.5}, "delta=0.5 does not go with loss='cross_entropy'"),
        ({"loss": "cross_entropy", "score_scaling": True}, "score_scaling=True does not go with loss='cross_entropy'"),
        ({"image_side": 0}, "image_side=0 is not at least 1"),
        ({"anchor_ratios": ()}, "the number of anchor_ratios=0"),
        ({"anchor_ratios": (0.0,)}, "anchor_ratios=0.0 is not above 0"),
        ({"anchor_scale": -1.0}, "anchor_scale=-1.0 is not above 0"),
        ({"nms_candidates": 0}, "nms_candidates=0"),
        ({"pre_nms": 0}, "pre_nms=0"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        yolact(3, backbone=BackboneSettings("mobilenet_v2", fpn_channels=8), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrototypeSettings(count=0), "masks.count=0"),
        (lambda: PrototypeSettings(limit=0), "masks.limit=0"),
        (lambda: PrototypeSettings(threshold=1.5), "masks.threshold=1.5"),
        (lambda: TaskWeights(mask=0), "task_weights.mask=0"),
    ],
)
def test_what_its_settings_refuse(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_masks_that_vanish_among_the_prototypes(loss: str):
    """Masks of a single pixel, of none, and of all that a box beyond the image has left: it trains on."""
    model, images = build(loss), random_images((64, 64), (48, 80))
    boxes = [[20.0, 20, 21, 21], [0, 0, 64, 64], [60, 60, 90, 90]], [[3.0, 3, 4, 5]]
    targets = [target(*of_image) for of_image in boxes]
    targets = with_masks(images, targets)
    for one in targets:
        one["masks"][:] = False
    targets[0]["masks"][0, 20, 20] = True
    losses = model(images, targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_more_than_a_hundred_objects_in_550_pixels():
    """Prototypes of 138 x 138 cells, and masks of all positives, a few at a time."""
    generator = torch.Generator().manual_seed(5)
    corner = 480 * torch.rand(120, 2, generator=generator)
    boxes = torch.cat((corner, corner + 8 + 60 * torch.rand(120, 2, generator=generator)), dim=1)
    images, labels = random_images((550, 550)), torch.randint(3, (120,), generator=generator)
    model = build(image_side=550)
    prototypes = record(model.head, "forward")
    losses = step(model, images, [{"boxes": boxes, "labels": labels}])
    assert prototypes[0].prototypes.shape == (1, 8, 138, 138)
    assert model.statistics["positives_dense"] > 120
    assert losses["loss_mask"] == pytest.approx(losses["loss_rank"] + losses["loss_sort"], rel=1e-5)


def test_one_small_image_alone_trains():
    """Its last stage has one cell, of which batch normalisation would make nothing but 0, and torch an error."""
    model = build()
    assert step(model, random_images((32, 24)), [target([4.0, 4, 20, 20])])["loss_rank"] > 0
    assert any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_masks_of_detections_are_those_of_their_anchors(batch: Batch):
    """Each mask is made of the coefficients at the place of the anchor whose box it stands beside."""
    model = build(detections=DetectionSettings(0.0)).eval()
    images, _ = batch
    with torch.no_grad():
        outputs = record(model.head, "forward")
        found = model(images)
    (predicted,) = outputs
    size = model.transform.padded_size(images)
    anchors = model.anchors.scene(model.backbone.pyramid.sizes(size), [size], size).anchors

    def flat(levels: list[Tensor], channels: int) -> Tensor:
        return torch.cat([x.unflatten(1, (3, channels)).flatten(3).movedim(2, -1).flatten(1, 2) for x in levels], 1)

    for i, (image, detections) in enumerate(zip(images, found, strict=True)):
        height, width = image.shape[1:]
        decoded = model.coder.decode_single(flat(predicted.deltas, 4)[i], anchors)
        decoded = decoded.clamp(min=0).minimum(torch.tensor([width, height] * 2))
        for box, mask in list(zip(detections["boxes"], detections["masks"], strict=True))[:20]:
            own = flat(predicted.coefficients, 8)[i, (decoded - box).abs().sum(1).argmin()]
            probabilities = (own[:, None, None] * predicted.prototypes[i]).sum(0).sigmoid()
            whole = F.interpolate(probabilities[None, None], scale_factor=4.0, mode="bilinear")[0, 0, :height, :width]
            left, top, right, bottom = (*box[:2].floor().int().tolist(), *box[2:].ceil().int().tolist())
            expected = torch.zeros(height, width, dtype=torch.bool)
            expected[top:bottom, left:right] = whole[top:bottom, left:right] >= 0.5
            assert (mask != expected).float().mean() < 1e-3  # a probability of a half, within rounding
    assert len(found[0]["boxes"]) == 100
