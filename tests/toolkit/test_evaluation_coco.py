"""COCO numbers: against published ones, perfect and empty detections, the way back to file pixels, faulty results."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rst.data import CocoDetection, DataError, shapes
from rst.data.masks import encode_mask
from rst.data.transforms import evaluation_transforms
from rst.evaluation import evaluate_detections, format_table, to_coco_results
from rst.evaluation.coco import METRICS

GROUND_TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 200}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}
RESULT = {"image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.9}


@pytest.fixture
def annotations(tmp_path: Path):
    def write(content: dict[str, Any] = GROUND_TRUTH) -> Path:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture(scope="module")
def published(tree: Path) -> list[dict[str, Any]]:
    with gzip.open(tree / "tests/data/detections.json.gz") as file:
        return json.load(file)


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers(published, annotations, case, iou_type):
    content = published[case]
    metrics = evaluate_detections(annotations(content["gt"]), content["dt"], iou_type)
    assert tuple(metrics) == METRICS
    np.testing.assert_allclose(list(metrics.values()), content[iou_type]["coco_stats"], rtol=0, atol=1e-12)


def test_results_are_read_from_a_file_left_alone_and_nothing_is_printed(published, annotations, tmp_path, capfd):
    content = published[0]
    before = copy.deepcopy(content["dt"])
    in_memory = evaluate_detections(annotations(content["gt"]), content["dt"])
    assert content["dt"] == before
    (tmp_path / "results.json").write_text(json.dumps(content["dt"]))
    assert evaluate_detections(str(annotations(content["gt"])), tmp_path / "results.json") == in_memory
    assert capfd.readouterr() == ("", "")


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
    assert metrics["APl"] == -1, "there is no object of 96 pixels a side in pictures of 64"


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
    spoilt = [
        {k: v for k, v in (one | two).items() if v is not None} for one, two in ((good, detection), (place, target))
    ]
    with pytest.raises(ValueError, match=message):
        to_coco_results([spoilt[0]], [spoilt[1]], [1, 2])


def test_detections_and_targets_must_be_as_many():
    with pytest.raises(ValueError, match=r"detections of 0 pictures, but targets of 1"):
        to_coco_results([], [{}], [1])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_results_score_zero(annotations, iou_type):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 50, 50, 10, 50]]
    metrics = evaluate_detections(annotations(content), [], iou_type)
    assert metrics["AP"] == metrics["AR100"] == 0.0
    assert metrics["APs"] == -1.0


def test_ground_truth_without_objects_is_undefined(annotations):
    metrics = evaluate_detections(annotations(GROUND_TRUTH | {"annotations": []}), [RESULT])
    assert set(metrics.values()) == {-1.0}


def test_area_and_crowd_flag_may_be_missing(annotations):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 50, 50, 10, 50]]
    whole = evaluate_detections(annotations(content), [RESULT])
    assert [whole["AP"], whole["APm"], whole["APs"]] == pytest.approx([1.0, 1.0, -1.0])
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    assert evaluate_detections(annotations(content), [RESULT]) == whole
    square = np.zeros((100, 200), bool)
    square[10:50, 10:50] = True
    result = RESULT | {"segmentation": encode_mask(square)}
    masks = evaluate_detections(annotations(content), [result], "segm")
    assert [masks["AP"], masks["APm"], masks["APs"]] == pytest.approx([1.0, 1.0, -1.0]), "the area is that of the mask"
    del content["annotations"][0]["bbox"]
    with pytest.raises(DataError, match=r"annotation 1: 'bbox' must be four finite numbers, is None"):
        evaluate_detections(annotations(content), [RESULT])


def test_masks_are_compared_as_masks_even_where_boxes_are_given(annotations):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 50, 50, 10, 50]]
    half = np.zeros((100, 200), bool)
    half[10:50, 10:30] = True
    result = RESULT | {"segmentation": encode_mask(half)}
    assert evaluate_detections(annotations(content), [result], "segm")["AP50"] == pytest.approx(
        1.0
    )  # IoU exactly one half
    assert evaluate_detections(annotations(content), [result], "segm")["AP"] == pytest.approx(0.1)
    assert evaluate_detections(annotations(content), [result], "bbox")["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 2}, r"results\[1\]: image_id 2 is no image of the ground truth"),
        ({"category_id": 4}, r"results\[1\]: category_id 4 is no category of the ground truth"),
        ({"score": float("nan")}, r"results\[1\]: score is not a finite number: nan"),
        ({"score": "0.5"}, r"results\[1\]: score is not a finite number: '0.5'"),
        ({"bbox": [1, 2, 3]}, r"results\[1\]: bbox must be four finite numbers, is \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("inf")]}, r"results\[1\]: bbox must be four finite numbers"),
        ({"bbox": None}, r"results\[1\] has no key 'bbox'"),
        ({"score": None}, r"results\[1\] has no key 'score'"),
    ],
)
def test_faulty_results_are_named(annotations, change, message):
    spoilt = {key: value for key, value in (RESULT | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        evaluate_detections(annotations(), [RESULT, spoilt])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[10, 10, 50, 10, 50, 50]], r"segmentation must be compressed run lengths"),
        ({"size": [100, 201], "counts": "0"}, r"run lengths have size \[100, 201\], the picture \[100, 200\]"),
        ({"size": [100, 200], "counts": "PPP0"}, r"run lengths do not add up to 100x200 pixels"),
    ],
)
def test_faulty_masks_are_named(annotations, segmentation, message):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 50, 50, 10, 50]]
    with pytest.raises(ValueError, match=rf"results\[0\]: .*{message}"):
        evaluate_detections(annotations(content), [RESULT | {"segmentation": segmentation}], "segm")


def test_faulty_files_are_named(annotations, tmp_path):
    (tmp_path / "results.json").write_text('[{"image_id": 1,\n}]')
    with pytest.raises(DataError, match=r"results.json: malformed JSON at line 2, column \d+"):
        evaluate_detections(annotations(), tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"image_id": 1}')
    with pytest.raises(DataError, match=r"results.json: must be a list of results, is dict"):
        evaluate_detections(annotations(), tmp_path / "results.json")
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        evaluate_detections(tmp_path / "absent.json", [])
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(DataError, match=r"instances.json: annotation 1: category_id 8 is not in this file"):
        evaluate_detections(annotations(content), [])
    content = copy.deepcopy(GROUND_TRUTH)
    content["images"] *= 2
    with pytest.raises(DataError, match=r"instances.json: image id 1 is used 2 times"):
        evaluate_detections(annotations(content), [])
    with pytest.raises(ValueError, match=r"iou_type must be 'bbox' or 'segm', got 'mask'"):
        evaluate_detections(annotations(), [], "mask")  # type: ignore[arg-type]


def test_the_table_is_in_per_cent():
    metrics = dict(zip(METRICS, [0.3957, 0.5, 1.0, -1.0, 0.0, 0.25, 0.1, 0.2, 0.3, 0.4, 0.5, -1.0], strict=True))
    assert format_table(metrics).splitlines() == [
        "     AP   AP50   AP75    APs    APm    APl",
        "   39.6   50.0  100.0      -    0.0   25.0",
        "    AR1   AR10  AR100    ARs    ARm    ARl",
        "   10.0   20.0   30.0   40.0   50.0      -",
    ]
