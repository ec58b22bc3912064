"""A detector's output as COCO results: back to file pixels, faults named."""

import contextlib
import io
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils._python_dispatch import TorchDispatchMode

from rst.coco.masks import decode_segmentation, encode_mask
from rst.data import CocoDetection
from rst.data.samples import shapes
from rst.data.transforms import evaluation_transforms
from rst.evaluation import evaluate_detections, to_coco_results, to_file_pixels
from rst.evaluation.results import given_up


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
    assert metrics["AP75"] > 0.85, "thin ones lose a pixel of their few on the way"


def test_masks_are_resized_a_few_at_a_time(monkeypatch):
    masks = torch.rand(7, 20, 30) > 0.5
    detection = {"boxes": torch.zeros(7, 4), "labels": torch.zeros(7), "scores": torch.ones(7), "masks": masks}
    whole = to_file_pixels(detection, (20, 30), (45, 70))["segmentations"]
    monkeypatch.setattr("rst.evaluation.results.PIXELS_AT_ONCE", 2 * 45 * 70)
    assert to_file_pixels(detection, (20, 30), (45, 70))["segmentations"] == whole
    for mask, runs in zip(masks, whole, strict=True):
        back = decode_segmentation(runs, 45, 70, "mask")
        assert abs(back.mean() - mask.float().mean().item()) < 0.1


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made and still held."""

    def __init__(self):
        super().__init__()
        self.storages: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {value.untyped_storage().data_ptr() for value in args if isinstance(value, torch.Tensor)}
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor) and (place := tensor.untyped_storage().data_ptr()) not in given:
                self.storages[place] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor, self.storages.pop, place, 0)
        self.peak = max(self.peak, sum(self.storages.values()))
        return made


@pytest.mark.parametrize(
    ("size", "of_file"),
    [((100, 160), (100, 160)), ((100, 160), (500, 800)), ((500, 800), (50, 80))],
    ids=["as they are", "enlarged", "reduced"],
)
def test_a_hundred_masks_take_memory_for_a_few(monkeypatch, size, of_file):
    """Beside the detector's own (100, h, w) bool, a few float masks of the larger size at once, by count of bytes."""
    largest = max(size[0] * size[1], of_file[0] * of_file[1])
    monkeypatch.setattr("rst.evaluation.results.PIXELS_AT_ONCE", 3 * largest)
    masks = torch.zeros(100, *size, dtype=torch.bool)
    masks[:, 10:50, 20:90] = True
    detection = {"boxes": torch.zeros(100, 4), "labels": torch.zeros(100), "scores": torch.ones(100), "masks": masks}
    with LiveBytes() as live:
        found = to_file_pixels(detection, size, of_file)
    assert len(found["segmentations"]) == 100
    assert live.peak < 3 * largest * (4 + 4 + 4 + 1 + 1) + 20_000, "three: float before, after, and their comparison"
    if size == of_file:
        assert live.peak < 20_000, "views of what the detector gave"


def test_detections_are_given_up_one_by_one():
    images = [torch.zeros(3) for _ in range(4)]
    held = [weakref.ref(image) for image in images]
    detections = given_up(images)
    del images
    for place, image in enumerate(detections):
        assert sum(ref() is not None for ref in held) <= 4 - place
        assert image is held[place]()
    assert list(given_up([])) == []


def test_masks_of_a_crowded_image_score_as_pycocotools_scores_them(tmp_path):
    """100 objects of an image, detected a little off: what is written is read, and scored, equally by pycocotools."""
    random = np.random.default_rng(0)
    height, width = 240, 320
    truth, masks = [], torch.zeros(100, height, width, dtype=torch.bool)
    for k in range(100):
        x, y = 30 * (k % 10) + 8, 22 * (k // 10) + 6
        mask = np.zeros((height, width), bool)
        mask[y : y + 14, x : x + 20] = True
        mask[y + 4 : y + 9, x + 5 : x + 14] = False
        truth.append({"id": k + 1, "image_id": 1, "category_id": 1 + k % 3, "iscrowd": 0, "area": int(mask.sum()),
                      "bbox": [x, y, 20, 14], "segmentation": encode_mask(mask)})  # fmt: skip
        masks[k] = torch.from_numpy(np.roll(mask, random.integers(-1, 2, 2), (0, 1)))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
        "annotations": truth,
    }
    file, written = tmp_path / "truth.json", tmp_path / "results.json"
    file.write_text(json.dumps(content))
    labels = torch.arange(100) % 3
    boxes = torch.tensor([entry["bbox"] for entry in truth]).float()
    boxes[:, 2:] += boxes[:, :2]
    detection = {"boxes": boxes, "labels": labels, "scores": torch.rand(100), "masks": masks}
    target = {"image_id": 1, "original_size": (height, width), "size": (height, width)}
    written.write_text(json.dumps(to_coco_results([detection], [target], [1, 2, 3])))
    ours = evaluate_detections(file, written, "segm")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        theirs = COCOeval(coco, coco.loadRes(str(written)), "segm")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert [ours[name] for name in names] == pytest.approx(theirs.stats.tolist(), abs=1e-9)
    assert 0.2 < ours["AP"] < 0.9


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
