"""What every detector promises under every loss; a new one joins by its entry in tests/support/detector_cases.py."""

import copy
import pickle

import pytest
import torch
from detector_cases import (
    CASES,
    Batch,
    Case,
    bright_rectangles,
    objects_batch,
    overfit,
    random_images,
    step,
    target,
    with_masks,
)
from torchvision.ops import box_iou

from rst.detectors import Detector

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)
STATISTICS = {"spearman", "positives", "negatives", "negatives_per_positive"}
SQUARE = [8.0, 8, 40, 40]


def localisation_losses(model: Detector, values: dict[str, float]) -> list[float]:
    """Of the boxes, or where there are none of the masks."""
    task = "_bbox" if "bbox" in model.iou_types else "_mask"
    return [value for name, value in values.items() if name.endswith(task)]


@EVERY_CASE
def test_names_of_heads_terms_and_statistics(case: Case, batch: Batch):
    model = case.build()
    assert model.statistics == {}
    losses = model(*batch)
    for name in losses:
        head = name.split("_")[1]
        assert name.startswith("loss_")
        assert head in model.heads or len(model.heads) == 1
    found = model.statistics
    for head in model.heads:
        names = {name.removesuffix(f"_{head}") for name in found if name.endswith(f"_{head}")}
        assert names - {"balance", "balance_mask"} == STATISTICS
    for value in found.values():
        assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float64, False)
    model.eval()(batch[0])
    assert model.statistics == found, "detecting leaves them"


@EVERY_CASE
def test_gradients_reach_every_trainable_parameter(case: Case, batch: Batch):
    model = case.build()
    step(model, *batch)
    silent = {name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    # with random weights a whole channel may be dead, but no layer's convolution is
    norms = {name for name in silent if name.startswith(case.quiet)}
    assert not {name for name in silent - norms if name.endswith("weight")}


@EVERY_CASE
def test_batches_that_broke_published_code(case: Case):
    """No object in one image and in all, specks, slivers, boxes outside and huge, an object twice: it trains on."""
    model = case.build(num_classes=40)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    speck, sliver = [20.0, 20, 21, 21], [20.0, 20, 20.001, 60]
    outside, huge, degenerate = [-40.0, -40, -20, -20], [0.0, 0, 9e4, 9e4], [7.0, 7, 7, 30]
    for first, second in (
        ([SQUARE], []),
        ([], []),
        ([speck], [sliver, outside]),
        ([huge, SQUARE], [degenerate]),
        ([SQUARE, SQUARE], [SQUARE]),
        ([], []),
    ):
        values = step(model, random_images((64, 64), (48, 80)), [target(*first), target(*second)])
        if first == [SQUARE]:
            assert all(loss > 0 for loss in localisation_losses(model, values)[-1:])
        if not first and not second:
            assert not any(localisation_losses(model, values))
            assert not case.ranks or not any(values.values())
        optimizer.step()


@EVERY_CASE
def test_a_crowd_of_objects(case: Case):
    generator = torch.Generator().manual_seed(5)
    corner = 60 * torch.rand(200, 2, generator=generator)
    boxes = torch.cat((corner, corner + 4 + 30 * torch.rand(200, 2, generator=generator)), dim=1)
    labels = torch.randint(3, (200,), generator=generator)
    step(case.build(), random_images((96, 96)), [{"boxes": boxes, "labels": labels}])


@EVERY_CASE
def test_degenerate_boxes_are_as_good_as_none(case: Case):
    degenerate = [10.0, 10, 10, 30], [10.0, 10, 30, 10], [7.0, 7, 7, 7]
    model, images = case.build(), random_images((64, 64), (48, 80))
    torch.manual_seed(5)
    with_them = step(model, images, [target(SQUARE, *degenerate), target(*degenerate)])
    model = case.build()
    torch.manual_seed(5)
    assert with_them == step(model, images, [target(SQUARE), target()])


@EVERY_CASE
def test_nan_pixels_reach_the_losses_and_crash_nothing(case: Case, batch: Batch):
    model, (images, targets) = case.build(), batch
    images[0][:, 10, 10] = torch.nan
    assert sum(model(images, targets).values()).isnan()
    found = model.eval()(images)
    assert all(f["scores"].isfinite().all() and f["boxes"].isfinite().all() for f in found)


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_float32(case: Case, batch: Batch, dtype: torch.dtype):
    model = case.build()
    torch.manual_seed(1)
    exact = model(*batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=dtype):
        half = model(*batch)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.2, atol=0.05)
    sum(half.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.autocast("cpu", dtype=dtype):
        found = model.eval()(batch[0])
    assert all(f["boxes"].dtype == f["scores"].dtype == torch.float32 for f in found)


@EVERY_CASE
def test_what_leaves_the_model(case: Case, batch: Batch):
    model = case.build().eval()
    with torch.no_grad():
        found = model(batch[0])
    for image, detections in zip(batch[0], found, strict=True):
        of_masks = {"masks"} if "segm" in model.iou_types else set()
        assert set(detections) - {"mask_scores"} == {"boxes", "labels", "scores"} | of_masks
        boxes, labels, scores = detections["boxes"], detections["labels"], detections["scores"]
        assert len(boxes) == len(labels) == len(scores) > 0
        assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)
        assert 0 <= labels.min() <= labels.max() < model.num_classes == 3
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= image.shape[2]
        assert boxes[:, 3].max() <= image.shape[1]


@EVERY_CASE
def test_neighbours_and_their_order_change_nothing(case: Case, batch: Batch):
    model, (images, targets) = case.build(), batch
    if not case.options["loss"].startswith("cross_entropy"):  # which draws a sample
        forward, backward = model(images, targets), case.build()(images[::-1], targets[::-1])
        for name, value in forward.items():
            torch.testing.assert_close(backward[name], value, rtol=1e-3, atol=1e-5)
    model.eval()
    with torch.no_grad():
        (alone,) = model([images[0]])
        together = model([images[0], images[0].flip(2)])[0]
    for key, value in alone.items():
        if key == "masks":  # a pixel at the threshold may go either way
            assert together[key].shape == value.shape
            assert (together[key] != value).float().mean() < 1e-3
        else:
            torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-3)


@EVERY_CASE
def test_copies_pickles_and_checkpoints_carry_everything(case: Case, batch: Batch):
    model, other = case.build(), case.build()
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other]
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict())
    expected = losses_of(model, batch)
    for twin in twins:
        assert losses_of(twin, batch) == expected
    assert not [name for name in model.state_dict() if "transform" in name or "anchors" in name]


def losses_of(model: Detector, batch: Batch) -> dict[str, float]:
    torch.manual_seed(3)
    return {name: loss.item() for name, loss in model(*batch).items()}


@EVERY_CASE
def test_positives_are_those_of_the_step(case: Case, batch: Batch):
    model, (images, targets) = case.build(), batch
    degenerate = torch.tensor([[7.0, 7, 7, 30]])
    targets[0]["boxes"] = torch.cat((degenerate, targets[0]["boxes"]))
    targets[0]["labels"] = torch.cat((torch.tensor([0]), targets[0]["labels"]))
    targets = with_masks(images, targets)
    torch.manual_seed(3)
    looks = any(head.assigner.uses_predictions for head in model.anchor_heads().values())
    blank = [torch.zeros(()).expand(image.shape) for image in images]
    found = model.positives(images if looks else blank, targets)
    torch.manual_seed(3)
    model(images, targets)
    assert found.keys() <= model.heads.keys()
    for head, (image, boxes, truth, level) in found.items():
        assert len(image) == len(boxes) == len(truth) == len(level) == model.statistics[f"positives_{head}"] > 0
        names = [f"p{number}" for number in level.unique().tolist()]
        assert set(names) <= set(model.backbone.pyramid.names)
        own = torch.stack([targets[i]["boxes"][t] for i, t in zip(image.tolist(), truth.tolist(), strict=True)])
        if head in model.anchor_heads():
            assert box_iou(boxes, own).diagonal().min() > 0.1, (
                "an object is numbered as in its target, degenerate or not"
            )
        else:  # a cell is smaller than its object
            middle = 0.5 * (boxes[:, :2] + boxes[:, 2:])
            assert ((middle > own[:, :2]) & (middle < own[:, 2:])).all()
        assert {t for i, t in zip(image.tolist(), truth.tolist(), strict=True) if i == 0} <= {1, 2}


@EVERY_CASE
def test_the_batch_as_the_network_sees_it(case: Case, batch: Batch):
    images, _ = batch
    model = case.build()
    seen = model.as_seen(images)
    assert seen.shape == (2, 3, *model.transform.padded_size(images))
    torch.testing.assert_close(seen[0, :, :64, :96], images[0])
    torch.testing.assert_close(seen[1, :, :90, :64], images[1])


@EVERY_CASE
def test_a_training_step_needs_targets_within_the_classes(case: Case):
    model, images = case.build(num_classes=2), random_images((64, 64))
    with pytest.raises(ValueError, match="targets is None"):
        model(images)
    wrong = {"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([2])}
    with pytest.raises(ValueError, match=r"targets\[0\]\['labels'\] holds 2, which is not in \[0, 2\)"):
        model(images, with_masks(images, [wrong]))


@EVERY_CASE
def test_overfits_one_batch(case: Case):
    overfit(case.build_to_overfit(num_classes=2), bright_rectangles())


def test_the_batch_of_these_tests_has_objects_in_both_images():
    assert [len(t["labels"]) for t in objects_batch()[1]] == [2, 1]
