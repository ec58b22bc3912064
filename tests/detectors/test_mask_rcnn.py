"""Mask R-CNN: Dice, its weights and its balance in float64, the cap, one class per RoI, and masks of detections."""

from typing import Any

import pytest
import torch
from detector_cases import Batch, Case, random_images, step, target
from largest import Largest
from spies import record
from torch import Tensor

from rst.detectors import MaskSettings, ProposalSettings, TwoStageDetector, mask_rcnn
from rst.detectors.detections.paste import paste_masks

MANY = ProposalSettings(1000, 1000, 100, 50)


def build(loss: str = "rank_sort", num_classes: int = 3, **options: Any) -> TwoStageDetector:
    model = Case("mask_rcnn", {"loss": loss}).build(num_classes, **options)
    assert isinstance(model, TwoStageDetector)
    return model


def limited(limit: int) -> MaskSettings:
    return MaskSettings(channels=16, convolutions=1, limit=limit)


@pytest.mark.parametrize("limit", [None, 7])
def test_dice_weights_and_gradient_in_float64(limit: int | None, batch: Batch):
    """loss_mask = lambda x sum(w (1 - Dice)) / sum(w), over the kept positives, each with its own weight and object."""
    torch.manual_seed(4)
    model = build(proposals=MANY, masks=MaskSettings(16, 1, limit))
    given = record(model.box_heads[0].loss, "forward", argument=True)
    losses = model(*batch)
    masks, ranked = given[0].tasks["mask"], given[0].classification
    kept = masks.kept
    assert len(kept) == (len(ranked.index) if limit is None else limit) == len(kept.unique())
    weights = ranked.candidate_logits.double().sigmoid().amax(dim=1)[kept]
    logits = masks.logits.detach().double().requires_grad_()
    p, t = logits.sigmoid().flatten(1), masks.truths.double().flatten(1)
    dice = 2 * (p * t).sum(1) / (p.square().sum(1) + t.square().sum(1) + 1e-5)
    mean = (weights * (1 - dice)).sum() / weights.sum()
    factor = (losses["loss_roi_rank"] + losses["loss_roi_sort"]).detach().double() / mean.detach()
    torch.testing.assert_close(losses["loss_roi_mask"].double(), factor * mean, rtol=1e-5, atol=0)
    assert model.statistics["balance_mask_roi"].item() == pytest.approx(factor.item(), rel=1e-5)
    (expected,) = torch.autograd.grad(factor * mean, logits)
    (gradient,) = torch.autograd.grad(losses["loss_roi_mask"], masks.logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("limit", [None, 7])
def test_a_mask_belongs_to_its_roi(limit: int | None, batch: Batch):
    """The published cap mixed up 99.5 % of the weights: here each kept RoI has the class and the mask of its object."""
    images, targets = batch
    model = build(proposals=MANY, masks=MaskSettings(16, 1, limit))
    given, samples = record(model.box_heads[0].loss, "forward", argument=True), record(model.box_heads[0], "sample")
    inputs = record(model.mask_heads[0].pool, "forward", argument=True, position=1)
    model(images, targets)
    sample, masks = samples[0], given[0].tasks["mask"]
    boxes = torch.cat(sample.proposals)[sample.positive][masks.kept]
    torch.testing.assert_close(torch.cat(list(inputs[0])), boxes)
    objects = [mask for each in targets for mask in each["masks"]]
    for box, of_object, truth in zip(boxes, sample.match[sample.positive][masks.kept], masks.truths, strict=True):
        left, top, right, bottom = box.round().int().tolist()
        inside = objects[of_object][top:bottom, left:right].float().mean()
        assert truth.mean().item() == pytest.approx(inside.item(), abs=0.12)


@pytest.mark.parametrize("options", [{}, {"masks": limited(3)}, {"sorting_error": False}, {"score_weighting": False}])
def test_the_mask_loss_has_the_value_of_the_ranking_in_every_step(options: dict[str, Any], batch: Batch):
    model = build(**options)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        losses = step(model, *batch)
        ranking = losses["loss_roi_rank"] + losses.get("loss_roi_sort", 0)
        assert losses["loss_roi_mask"] == pytest.approx(ranking, rel=1e-5)
        assert losses["loss_roi_bbox"] == pytest.approx(ranking, rel=1e-5)
        optimizer.step()


def test_cross_entropy_of_masks_is_a_mean_over_cells(batch: Batch):
    model = build("cross_entropy", proposals=MANY)
    given = record(model.box_heads[0].loss, "forward", argument=True)
    losses = model(*batch)
    masks = given[0].tasks["mask"]
    p = masks.logits.double().sigmoid()
    expected = -(masks.truths * p.log() + (1 - masks.truths) * (1 - p).log()).mean()
    assert losses["loss_roi_mask"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_more_than_200_positives_and_the_published_cap():
    generator = torch.Generator().manual_seed(5)
    corner = 60 * torch.rand(250, 2, generator=generator)
    boxes = torch.cat((corner, corner + 4 + 30 * torch.rand(250, 2, generator=generator)), dim=1)
    targets = [{"boxes": boxes, "labels": torch.randint(3, (250,), generator=generator)}]
    for limit, trained in ((200, 200), (None, 250)):
        model = build(masks=MaskSettings(16, 1, limit))
        given = record(model.box_heads[0].loss, "forward", argument=True)
        step(model, random_images((96, 96)), targets)
        assert len(given[0].classification.index) >= 250
        assert len(given[0].tasks["mask"].truths) == min(limit or 10**9, len(given[0].classification.index)) >= trained


def test_an_objects_best_roi_of_half_an_iou_is_its_own(batch: Batch):
    """The published Mask R-CNN matches with low quality, Faster R-CNN does not (paper's configurations)."""
    assert build().box_heads[0].matcher.allow_low_quality_matches
    assert not Case("faster_rcnn", {"loss": "rank_sort"}).build().box_heads[0].matcher.allow_low_quality_matches
    assert (
        not Case("cascade_rcnn with masks", {"loss": "rank_sort"})
        .build()
        .box_heads[0]
        .matcher.allow_low_quality_matches
    )


def test_1203_classes_cost_one_mask_a_roi(batch: Batch):
    """All classes' masks of all positives would be 28 x 28 x 1,203 numbers each."""
    model, (images, targets) = build(num_classes=1203, proposals=MANY), batch
    with Largest() as largest:
        losses = model(images, targets)
        sum(losses.values()).backward()
    positives = int(model.statistics["positives_roi"])
    assert positives >= 10
    assert largest.numbers < positives * 1203 * 28 * 28 / 2
    gradient = model.mask_heads[0].mask.weight.grad
    assert set(gradient.any(dim=1).nonzero().squeeze(1).tolist()) == {0, 1, 2}


def test_masks_of_detections_are_those_of_their_boxes_and_classes(batch: Batch):
    model = build().eval()
    images, _ = batch
    with torch.no_grad():
        found = model(images)
        sized = model.transform(model._checked(images))
        features = model.backbone(sized.pixels)
        head = model.mask_heads[0]
        for i, of_image in enumerate(found):
            assert of_image["masks"].dtype == torch.bool
            assert of_image["masks"].shape == (len(of_image["boxes"]), *images[i].shape[1:])
            for box, label, mask in list(zip(of_image["boxes"], of_image["labels"], of_image["masks"], strict=True))[
                :5
            ]:
                rois = [box[None] if image == i else box.new_zeros(0, 4) for image in range(len(images))]
                cells = head.upsample(head.tower(head.pool(features, rois))).relu()
                every = torch.einsum("tfhw,cf->tchw", cells, head.mask.weight) + head.mask.bias[:, None, None]
                alone = paste_masks(every[:, label].sigmoid(), box[None], images[i].shape[1:])
                assert (alone[0] != mask).float().mean() < 1e-3


def test_no_detection_has_masks_too(batch: Batch):
    found = build().eval()([torch.zeros(3, 64, 64)])[0]
    model = build(detections=type(build().detections)(score_threshold=1.0)).eval()
    nothing = model([torch.zeros(3, 64, 70)])[0]
    assert found["masks"].shape[1:] == (64, 64)
    assert nothing["masks"].shape == (0, 64, 70)


def test_empty_masks_and_a_batch_without_objects_train(batch: Batch):
    images, targets = batch
    empty = [each | {"masks": torch.zeros_like(each["masks"])} for each in targets]
    model = build()
    losses = step_with(model, images, empty)
    assert losses["loss_roi_mask"] > 0, "what is not there is predicted, at a Dice of 0"
    losses = step(model, random_images((64, 64)), [target()])
    assert losses["loss_roi_mask"] == 0


def step_with(model: TwoStageDetector, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, float]:
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return {name: value.item() for name, value in losses.items()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"masks": lambda: MaskSettings(channels=0)}, "masks.channels=0 is not at least 1"),
        ({"masks": lambda: MaskSettings(limit=0)}, "masks.limit=0 is not at least 1"),
        ({"masks": lambda: MaskSettings(threshold=2.0)}, "masks.threshold=2.0"),
        ({"masks": lambda: MaskSettings(convolutions=True)}, "masks.convolutions=True is not a whole number"),
        ({"loss": lambda: "dice"}, "loss='dice' is not one of"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        mask_rcnn(3, **{name: make() for name, make in options.items()})
