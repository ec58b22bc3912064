"""A detector's output as COCO results: back to file pixels, faults named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rst.coco.masks import decode_segmentation
from rst.data import CocoDetection
from rst.data.samples import shapes
from rst.data.transforms import evaluation_transforms
from rst.evaluation import evaluate_detections, to_coco_results, to_file_pixels


@pytest.fixture(scope="module")
def shapes_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "shapes"
    shapes.prepare(folder, train=1, val=12, side=64, seed=1)
    return folder


def ground_truth_as_detections(data: CocoDetection) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    targets = [data[i][1] for i in range(len(data))]
    detections = [
        {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.linspace(0.5, 1, len(t["labels"]))}
        for t in targets
    ]
    return detections, targets


def test_perfect_detections_in_resized_pixels_have_an_average_precision_of_one(shapes_set):
    file = shapes_set / "annotations/val.json"
    data = CocoDetection(file, shapes_set / "val", transforms=evaluation_transforms(101, 150))
    detections, targets = ground_truth_as_detections(data)
    assert all(target["size"] != target["original_size"] for target in targets)
    results = to_coco_results(detections, targets, data.category_ids)
    metrics = evaluate_detections(file, json.loads(json.dumps(results)))
    assert [metrics[name] for name in ("AP", "AP50", "AP75", "AR100")] == pytest.approx([1.0] * 4)
    assert metrics["APl"] == -1, "there is no object of 96 pixels a side in images of 64"


@pytest.mark.parametrize("side", [64, 128, 101])
def test_perfect_masks_in_resized_pixels_come_back_as_run_lengths(shapes_set, side):
    file = shapes_set / "annotations/val.json"
    data = CocoDetection(file, shapes_set / "val", masks=True, transforms=evaluation_transforms(side, side))
    detections, targets = ground_truth_as_detections(data)
    for detection, target in zip(detections, targets, strict=True):
        detection["masks"] = target["masks"].bool()
    results = json.loads(json.dumps(to_coco_results(detections, targets, data.category_ids)))
    sizes = {target["image_id"]: list(target["original_size"]) for target in targets}
    assert all(result["segmentation"]["size"] == sizes[result["image_id"]] for result in results)
    metrics = evaluate_detections(file, results, "segm")
    if side % 64 == 0:  # every pixel of the file is a whole number of pixels
        assert (metrics["AP"], metrics["oLRP"]) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP75"] > 0.9


def test_masks_are_resized_a_few_at_a_time(monkeypatch):
    masks = torch.rand(7, 20, 30) > 0.5
    detection = {"boxes": torch.zeros(7, 4), "labels": torch.zeros(7), "scores": torch.ones(7), "masks": masks}
    whole = to_file_pixels(detection, (20, 30), (45, 70))["segmentations"]
    monkeypatch.setattr("rst.evaluation.results.PIXELS_AT_ONCE", 2 * 45 * 70)
    assert to_file_pixels(detection, (20, 30), (45, 70))["segmentations"] == whole
    for mask, runs in zip(masks, whole, strict=True):
        back = decode_segmentation(runs, 45, 70, "mask")
        assert abs(back.mean() - mask.float().mean().item()) < 0.1


def test_masks_of_another_size_than_the_image_are_named():
    detection = {"boxes": torch.ones(1, 4), "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}
    target = {"image_id": 4, "original_size": (5, 5), "size": (5, 6)}
    message = r"detections of image 4: masks have shape \(1, 5, 5\), not \(1, 5, 6\)"
    with pytest.raises(ValueError, match=message):
        to_coco_results([detection | {"masks": torch.zeros(1, 5, 5, dtype=torch.bool)}], [target], [1])


def test_a_label_one_off_scores_nothing(shapes_set):
    file = shapes_set / "annotations/val.json"
    data = CocoDetection(file, shapes_set / "val")
    detections, targets = ground_truth_as_detections(data)
    moved = [detection | {"labels": (detection["labels"] + 1) % data.num_classes} for detection in detections]
    metrics = evaluate_detections(file, to_coco_results(moved, targets, data.category_ids))
    assert metrics["AP"] < 0.2


def test_boxes_go_back_to_file_pixels_and_are_clipped():
    detection = {
        "boxes": torch.tensor([[10.0, 20.0, 30.0, 60.0], [-5.0, 90.0, 500.0, 300.0]]),
        "labels": torch.tensor([1, 0]),
        "scores": torch.tensor([0.5, 0.25]),
    }
    target = {"image_id": 42, "original_size": (50, 100), "size": (100, 400)}
    assert to_coco_results([detection], [target], [7, 9]) == [
        {"image_id": 42, "category_id": 9, "bbox": [2.5, 10.0, 5.0, 20.0], "score": 0.5},
        {"image_id": 42, "category_id": 7, "bbox": [0.0, 45.0, 100.0, 5.0], "score": 0.25},
    ]
    kinds = {type(value) for result in to_coco_results([detection], [target], [7, 9]) for value in result.values()}
    assert kinds == {int, list, float}


def test_a_batch_without_detections_gives_no_results():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert to_coco_results([nothing], [{"image_id": 1, "original_size": (5, 5), "size": (5, 5)}], [1]) == []
    assert to_coco_results([], [], [1]) == []


@pytest.mark.parametrize(
    ("detection", "target", "message"),
    [
        ({"scores": torch.tensor([float("nan")])}, {}, r"detections of image 4: scores are not finite"),
        ({"boxes": torch.tensor([[0, 0, float("inf"), 1.0]])}, {}, r"detections of image 4: boxes are not finite"),
        ({"labels": torch.tensor([2])}, {}, r"detections of image 4: label 2 is not in \[0, 2\)"),
        ({"labels": torch.tensor([-1])}, {}, r"detections of image 4: label -1 is not in \[0, 2\)"),
        ({"scores": torch.ones(2)}, {}, r"image 4: boxes \(1, 4\), labels \(1,\) and scores \(2,\) must have shapes"),
        ({"boxes": torch.ones(1, 5)}, {}, r"image 4: boxes \(1, 5\)"),
        ({"scores": None}, {}, r"detections of image 4 have no key 'scores'"),
        ({}, {"size": None}, r"target of image 4 has no key 'size'"),
        ({}, {"image_id": None}, r"target of image \? has no key 'image_id'"),
    ],
)
def test_faulty_detections_are_named(detection, target, message):
    good = {"boxes": torch.ones(1, 4), "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}
    place = {"image_id": 4, "original_size": (5, 5), "size": (5, 5)}
    corrupted = [
        {k: v for k, v in (one | two).items() if v is not None} for one, two in ((good, detection), (place, target))
    ]
    with pytest.raises(ValueError, match=message):
        to_coco_results([corrupted[0]], [corrupted[1]], [1, 2])


def test_detections_and_targets_must_be_as_many():
    with pytest.raises(ValueError, match=r"detections of 0 images, but targets of 1"):
        to_coco_results([], [{}], [1])
