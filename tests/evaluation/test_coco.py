"""COCO's numbers: against published ones, against pycocotools on sets on which evaluators differ, and by hand."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import coco_set
from evaluation_oracles import pycocotools_evaluation

from rst.coco.masks import encode_mask
from rst.data import DataError
from rst.evaluation import evaluate, evaluate_detections
from rst.evaluation.report import notes

COCO_METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
GROUND_TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 200}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}
POLYGON = [[10, 10, 50, 10, 50, 50, 10, 50]]
RESULT = {"image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.9}

# images, detections an image, classes, and what else: few classes, so that more than 100 of one are in an image;
# scores of one decimal, most of them equal; no objects in many images
CASES = {
    "many classes": {"images": 12, "detections": 60, "classes": 12, "seed": 1},
    "beyond the limit": {"images": 6, "detections": 260, "classes": 2, "seed": 2, "objects": 20.0},
    "equal scores": {"images": 12, "detections": 40, "classes": 3, "seed": 3, "decimals": 1},
    "few objects": {"images": 20, "detections": 15, "classes": 4, "seed": 4, "objects": 0.7},
}


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
    assert list(metrics)[:12] == COCO_METRICS
    np.testing.assert_allclose(list(metrics.values())[:12], content[iou_type]["coco_stats"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
def test_every_precision_and_recall_is_that_of_pycocotools(annotations, case, iou_type):
    truth, results = coco_set(**CASES[case], side=200, masks=iou_type == "segm")
    expected = pycocotools_evaluation(truth, results, iou_type)
    evaluation = evaluate(annotations(truth), results, iou_type)
    np.testing.assert_allclose(list(evaluation.metrics.values())[:12], expected.stats, rtol=0, atol=1e-12)
    np.testing.assert_allclose(evaluation.precision, expected.eval["precision"][..., -1], rtol=0, atol=1e-12)
    assert (evaluation.precision[..., 0] > 0.5).any(), "the case finds something"
    recall = expected.eval["recall"]  # (T, K, A, limits)
    for k, entry in enumerate(evaluation.classes):
        own = [recall[:, k, 0, 0], recall[:, k, 0, 1], *recall[:, k, :, 2].T]
        values = [entry[name] for name in COCO_METRICS[6:]]
        np.testing.assert_allclose(values, [of_limit.mean() for of_limit in own], rtol=0, atol=1e-12)
        at = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
        for name, thresholds in at.items():
            assert entry[name] == pytest.approx(expected.eval["precision"][thresholds, :, k, 0, 2].mean(), abs=1e-12)


def test_the_cases_hold_what_tells_evaluators_apart():
    truth, results = coco_set(**CASES["beyond the limit"], side=200)
    per_class = [(result["image_id"], result["category_id"]) for result in results]
    assert max(map(per_class.count, set(per_class))) > 100
    assert any(entry["iscrowd"] for entry in truth["annotations"])
    assert {32.0**2, 96.0**2} & {entry["area"] for entry in truth["annotations"]}
    _, results = coco_set(**CASES["equal scores"])
    assert len({result["score"] for result in results}) < 12


def test_of_equal_overlaps_the_later_object_is_taken_and_an_ignored_one_last(annotations):
    objects = [
        {"id": 1, "bbox": [10, 10, 40, 40], "area": 5000, "iscrowd": 0},  # medium by its area
        {"id": 2, "bbox": [10, 10, 40, 40], "area": 900, "iscrowd": 0},  # small
        {"id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 1},
    ]
    truth = GROUND_TRUTH | {"annotations": [{"image_id": 1, "category_id": 3} | entry for entry in objects]}
    results = [RESULT | {"score": score} for score in (0.9, 0.8, 0.7, 0.6)]
    for count in range(1, 5):
        metrics = evaluate_detections(annotations(truth), results[:count])
        expected = pycocotools_evaluation(truth, results[:count], "bbox").stats
        np.testing.assert_allclose(list(metrics.values())[:12], expected, rtol=0, atol=1e-12)
    assert metrics["AP"] == pytest.approx(1.0), "the crowd takes any number of detections"


def test_annotation_id_0_is_a_miss_as_for_pycocotools_and_that_is_said(annotations):
    truth = copy.deepcopy(GROUND_TRUTH)
    truth["annotations"] = [truth["annotations"][0] | {"id": i, "bbox": [50 * i, 0, 40, 40]} for i in range(3)]
    results = [RESULT | {"bbox": entry["bbox"]} for entry in truth["annotations"]]
    evaluation = evaluate(annotations(truth), results)
    expected = pycocotools_evaluation(truth, results, "bbox").stats
    np.testing.assert_allclose(list(evaluation.metrics.values())[:12], expected, rtol=0, atol=1e-12)
    assert evaluation.metrics["AR100"] == pytest.approx(2 / 3)
    assert any("annotation id 0 always counts as missed" in note for note in notes(evaluation))


def test_results_are_read_from_a_file_left_alone_and_nothing_is_printed(published, annotations, tmp_path, capfd):
    content = published[0]
    before = copy.deepcopy(content["dt"])
    in_memory = evaluate_detections(annotations(content["gt"]), content["dt"])
    assert content["dt"] == before
    (tmp_path / "results.json").write_text(json.dumps(content["dt"]))
    assert evaluate_detections(str(annotations(content["gt"])), tmp_path / "results.json") == in_memory
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_results_score_zero(annotations, iou_type):
    truth, _ = coco_set(5, 1, 3, seed=1, side=200, masks=True)
    evaluation = evaluate(annotations(truth), [], iou_type)
    expected = pycocotools_evaluation(truth, [], iou_type).stats
    np.testing.assert_array_equal(list(evaluation.metrics.values())[:12], expected)
    metrics = evaluation.metrics
    assert (metrics["AP"], metrics["oLRP"], metrics["oLRP_FN"], metrics["oLRP_Loc"]) == (0.0, 1.0, 1.0, -1.0)
    assert evaluation.threshold is None
    assert {entry["threshold"] for entry in evaluation.classes} == {None}


def test_ground_truth_without_objects_is_undefined(annotations):
    for content in (GROUND_TRUTH | {"annotations": []}, GROUND_TRUTH | {"annotations": [], "images": []}):
        results = [RESULT] if content["images"] else []
        evaluation = evaluate(annotations(content), results)
        assert set(evaluation.metrics.values()) == {-1.0}
        assert evaluation.threshold is None


def test_area_and_crowd_flag_may_be_missing(annotations):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = POLYGON
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
    with pytest.raises(DataError, match=r"annotation 1: 'bbox' must be four numbers .*, is missing"):
        evaluate_detections(annotations(content), [RESULT])


def test_masks_are_compared_as_masks_even_where_boxes_are_given(annotations):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = POLYGON
    half = np.zeros((100, 200), bool)
    half[10:50, 10:30] = True
    result = RESULT | {"segmentation": encode_mask(half)}
    masks = evaluate_detections(annotations(content), [result], "segm")
    assert masks["AP50"] == pytest.approx(1.0), "an IoU of exactly one half"
    assert masks["AP"] == pytest.approx(0.1)
    assert evaluate_detections(annotations(content), [result], "bbox")["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [100, 200], "counts": [1010, *([40, 60] * 39), 40, 200 * 100 - 1010 - 39 * 100 - 40]},
        [POLYGON[0], [1.0, 1.0, 2.0, 2.0]],
    ],
    ids=["run lengths as a list", "a polygon of two points among others"],
)
def test_ground_truth_may_be_run_lengths_or_polygons(annotations, segmentation):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = segmentation
    square = np.zeros((100, 200), bool)
    square[10:50, 10:50] = True
    result = {key: RESULT[key] for key in ("image_id", "category_id", "score")} | {"segmentation": encode_mask(square)}
    assert evaluate_detections(annotations(content), [result], "segm")["AP"] == pytest.approx(1.0)
    counts = result["segmentation"]["counts"].encode()  # as pycocotools' encode returns them
    of_bytes = result | {"segmentation": result["segmentation"] | {"counts": counts}}
    assert evaluate_detections(annotations(content), [of_bytes], "segm")["AP"] == pytest.approx(1.0)


def test_an_object_without_a_usable_mask_is_missed(annotations):
    content = copy.deepcopy(GROUND_TRUTH)
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    nothing = RESULT | {"segmentation": encode_mask(np.zeros((100, 200), bool))}
    for results in ([], [nothing]):
        metrics = evaluate_detections(annotations(content), results, "segm")
        assert (metrics["AP"], metrics["oLRP"]) == (0.0, 1.0)


def test_more_than_255_masks_of_one_kind(annotations):  # pycocotools 2.0.11 counts them in a byte
    content = copy.deepcopy(GROUND_TRUTH)
    square = np.zeros((100, 200), bool)
    square[10:50, 10:50] = True
    mask = encode_mask(square)
    entry = content["annotations"][0] | {"segmentation": mask}
    content["images"] = [content["images"][0] | {"id": i} for i in range(1, 301)]
    content["annotations"] = [entry | {"id": i, "image_id": i} for i in range(1, 301)]
    results = [RESULT | {"image_id": i, "segmentation": mask} for i in range(1, 301)]
    assert evaluate_detections(annotations(content), results, "segm")["AP"] == pytest.approx(1.0)
