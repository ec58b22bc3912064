"""Wrong files: each fault is named with file, index, key and value."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rst.coco.faults import as_text
from rst.coco.lvis import frequency_column
from rst.coco.masks import encode_mask
from rst.data import DataError
from rst.data.check.lvis import frequency_counts
from rst.evaluation import evaluate, evaluate_detections
from rst.evaluation.report import notes

SQUARE = np.zeros((100, 200), bool)
SQUARE[10:50, 10:50] = True
MASK = encode_mask(SQUARE)
GROUND_TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 200}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "segmentation": MASK}
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}
RESULT = {"image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.9, "segmentation": MASK}


@pytest.fixture
def annotations(tmp_path: Path):
    def write(content: dict[str, Any] = GROUND_TRUTH) -> Path:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write


BOX = r"bbox must be four finite numbers \[x, y, width, height\], width and height not negative, is "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 2}, r"image_id 2 is no image of the ground truth, .*instances.json \(1 ids, 1 to 1\)$"),
        ({"image_id": "1"}, r"image_id must be an integer, is '1'"),
        ({"image_id": True}, r"image_id must be an integer, is True"),
        ({"image_id": 1.5}, r"image_id must be an integer, is 1.5"),
        ({"image_id": 2**70}, r"image_id is beyond 64 bits"),
        ({"category_id": 4}, r"category_id 4 is no category of the ground truth, .*instances.json \(2 ids, 3 to 5\)"),
        ({"category_id": []}, r"category_id must be an integer, is \[\]"),
        ({"score": float("nan")}, r"score is not a finite number: nan"),
        ({"score": float("inf")}, r"score is not a finite number: inf"),
        ({"score": 10**400}, r"score is not a finite number: 1000"),
        ({"score": "0.5"}, r"score is not a finite number: '0.5'"),
        ({"score": True}, r"score is not a finite number: True"),
        ({"score": 1.5}, r"score must lie in \[0, 1\], is 1.5"),
        ({"score": -0.1}, r"score must lie in \[0, 1\], is -0.1"),
        ({"score": 93}, r"score must lie in \[0, 1\], is 93"),
        ({"bbox": [1, 2, 3]}, BOX + r"\[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("inf")]}, BOX),
        ({"bbox": [1, 2, 3, float("nan")]}, BOX),
        ({"bbox": [1, 2, -3, 4]}, BOX + r"\[1, 2, -3, 4\]"),
        ({"bbox": ["1", "2", "3", "4"]}, BOX),
        ({"bbox": 7}, BOX + "7"),
        ({"bbox": {"x": 1}}, BOX),
    ],
)
def test_faulty_results_are_named(annotations, change, message):
    with pytest.raises(DataError, match=rf"results(\[1\])?: (some )?{message}"):
        evaluate_detections(annotations(), [RESULT, RESULT | change, RESULT])


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox"])
def test_missing_keys_are_named(annotations, key):
    lacking = {name: value for name, value in RESULT.items() if name != key}
    others = ", ".join(map(repr, sorted(lacking)))
    with pytest.raises(DataError, match=re.escape(f"results[1] has no key '{key}'; its keys are [{others}]")):
        evaluate_detections(annotations(), [RESULT, lacking])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[10, 10, 50, 10, 50, 50]], r"segmentation must be compressed run lengths, not polygons, is \[\[10, 10"),
        (
            {"size": [100, 200], "counts": [20000]},
            r"must be compressed run lengths, not uncompressed ones, is \{'size'",
        ),
        (None, r"segmentation must be compressed run lengths, is None"),
        (
            {"size": [100, 201], "counts": MASK["counts"]},
            r"run lengths have size \[100, 201\], the image \[100, 200\]",
        ),
        ({"counts": MASK["counts"]}, r"run lengths have size None, the image \[100, 200\]"),
        ({"size": [100, 200], "counts": "PPP0"}, r"run lengths do not add up to 100x200 pixels: 'PPP0'"),
        ({"size": [100, 200], "counts": MASK["counts"][:-1]}, r"run lengths do not add up to 100x200 pixels"),
        ({"size": [100, 200], "counts": ""}, r"run lengths do not add up to 100x200 pixels"),
        ({"size": [100, 200], "counts": "ö" + MASK["counts"]}, r"run lengths do not add up to 100x200 pixels"),
    ],
)
def test_faulty_masks_are_named(annotations, segmentation, message):
    results = [RESULT, RESULT | {"segmentation": segmentation}, RESULT]
    with pytest.raises(DataError, match=rf"results\[1\]: .*{message}"):
        evaluate_detections(annotations(), results, "segm")


def test_detections_of_another_data_set_are_refused(annotations, tmp_path):
    others = [RESULT | {"image_id": i} for i in range(100, 110)]
    (tmp_path / "theirs.json").write_text(json.dumps(others))
    message = (
        r"theirs.json\[0\]: image_id 100 is no image of the ground truth, .*instances.json \(1 ids, 1 to 1\); 10 of 10 "
        r"results have such an id. Are these detections of another data set\?"
    )
    with pytest.raises(DataError, match=message):
        evaluate_detections(annotations(), tmp_path / "theirs.json")


def test_labels_in_place_of_category_ids_are_guessed(annotations):
    with pytest.raises(DataError, match=r"results\[1\]: category_id 0 is no category .*Are these labels, which count"):
        evaluate_detections(annotations(), [RESULT, RESULT | {"category_id": 0}])
    with pytest.raises(DataError, match=r"category_id 4 is no category [^?]*$"):
        evaluate_detections(annotations(), [RESULT, RESULT | {"category_id": 4}])


def test_what_looks_like_other_data_with_the_same_ids_is_said(annotations):
    assert notes(evaluate(annotations(), [RESULT])) == []
    astray = [RESULT | {"bbox": [190, 10, 40, 40]}] * 3 + [RESULT]
    (note,) = notes(evaluate(annotations(), astray))
    assert "3 of 4 boxes lie mostly outside their images (the first is results[0]: [190.0, 10.0" in note
    (note,) = notes(evaluate(annotations(), [RESULT | {"bbox": [60, 10, 40, 40]}]))
    assert "not one object is found: are these detections of this data set?" in note
    content = copy.deepcopy(GROUND_TRUTH)
    content["images"] += [content["images"][0] | {"id": i} for i in (2, 3)]
    (note,) = notes(evaluate(annotations(content), [RESULT]))
    assert "most images have no detection at all" in note


@pytest.mark.parametrize("absent", [("height", "width"), ("height",)])
def test_boxes_need_no_sizes_of_images(annotations, absent):
    content = copy.deepcopy(GROUND_TRUTH)
    for key in absent:
        del content["images"][0][key]
    results = [RESULT, RESULT | {"bbox": [190, 90, 400, 400]}]
    evaluation = evaluate(annotations(content), results)
    assert notes(evaluation) == [], "where a border is not known, no box is beyond it"
    assert evaluation.metrics == evaluate_detections(annotations(), results)
    with pytest.raises(DataError, match="image 1 has no key 'height'"):
        evaluate(annotations(content), results, "segm")


def test_files_that_are_no_results_are_named(annotations, tmp_path):
    file = tmp_path / "results.json"
    for text, message in [
        ('[{"image_id": 1,\n}]', r"results.json: malformed JSON at line 2, column \d+"),
        ('{"image_id": 1}', r"results.json: must be a list of results, is dict with the keys \['image_id'\]"),
        ('"text"', r"results.json: must be a list of results, is str"),
        ("null", r"results.json: must be a list of results, is NoneType"),
        ("[[1, 2]]", r"results.json\[0\] must be an object, is \[1, 2\]"),
        ('["score"]', r"results.json\[0\] must be an object, is 'score'"),
    ]:
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            evaluate_detections(annotations(), file)
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        evaluate_detections(annotations(), tmp_path / "absent.json")
    with pytest.raises(ValueError, match=r"iou_type must be 'bbox' or 'segm', got 'mask'"):
        evaluate_detections(annotations(), [], "mask")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        (
            "annotations",
            {"category_id": 8},
            r"annotation 1: category_id 8 is no category of this file \(category ids: 3, 5\)",
        ),
        ("annotations", {"image_id": 8}, r"annotation 1: image_id 8 is no image of this file \(image ids: 1\)"),
        (
            "annotations",
            {"bbox": [1, 2, -3, 4]},
            r"annotation 1: 'bbox' has a negative width or height, is \[1, 2, -3, 4\]",
        ),
        ("annotations", {"bbox": "1234"}, r"annotation 1: 'bbox' must be four numbers .*'1234'"),
        ("annotations", {"area": -1}, r"annotation 1: 'area' must be a number of pixels, is -1"),
        ("annotations", {"area": None}, r"annotation 1: 'area' must be a number of pixels, is None"),
        ("images", {"height": None}, r"image 1: 'height' must be an integer, is None"),
        ("categories", {"id": 5}, r"category id 5 is used 2 times"),
    ],
)
def test_faulty_ground_truth_is_named(annotations, section, change, message):
    content = copy.deepcopy(GROUND_TRUTH)
    content[section][0] |= change
    with pytest.raises(DataError, match=rf"instances.json: {message}"):
        evaluate_detections(annotations(content), [])


def test_ground_truth_that_is_none_is_named(annotations, tmp_path):
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        evaluate_detections(tmp_path / "absent.json", [])
    with pytest.raises(DataError, match=r"instances.json: image id 1 is used 2 times"):
        evaluate_detections(annotations(GROUND_TRUTH | {"images": GROUND_TRUTH["images"] * 2}), [])
    with pytest.raises(DataError, match=r"instances.json: 'images' is empty, but there are 1 annotations"):
        evaluate_detections(annotations(GROUND_TRUTH | {"images": []}), [])
    with pytest.raises(DataError, match=r"instances.json: 'categories' is empty"):
        evaluate_detections(annotations(GROUND_TRUTH | {"annotations": [], "categories": []}), [])
    without = {key: value for key, value in GROUND_TRUTH["annotations"][0].items() if key != "segmentation"}
    for nothing in ({}, {"segmentation": None}, {"segmentation": []}):
        shapeless = annotations(GROUND_TRUTH | {"annotations": [without | nothing]})
        with pytest.raises(
            DataError, match=r"1 of 1 annotations have no mask \('segmentation'\), the first .* 1: .*--iou-type bbox"
        ):
            evaluate_detections(shapeless, [], "segm")
    second = GROUND_TRUTH["annotations"][0] | {"id": 2}
    shapeless = annotations(GROUND_TRUTH | {"annotations": [second, without]})
    with pytest.raises(DataError, match=r"1 of 2 annotations have no mask .*, the first is annotation 1"):
        evaluate_detections(shapeless, [], "segm")


def test_numbers_of_numpy_are_numbers(annotations):
    of_numpy = {
        "image_id": np.int64(1),
        "category_id": np.int32(3),
        "bbox": np.array([10, 10, 40, 40], np.float32),
        "score": np.float32(0.5),
    }
    assert evaluate_detections(annotations(), [of_numpy])["AP"] == pytest.approx(1.0)
    assert evaluate_detections(annotations(), [of_numpy | {"image_id": 1.0}])["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("key", ["name", "supercategory", "frequency"])
def test_deep_nesting_where_a_text_belongs(tmp_path: Path, key: str):
    """No traceback, however the value of a category is nested: `repr` and `str` of such values raise RecursionError."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    values = [entry | {key: deep} for entry in GROUND_TRUTH["categories"]]
    columns = SimpleNamespace(categories=values)
    assert frequency_counts(columns) == {"r": 0, "c": 0, "f": 0}  # type: ignore[arg-type]
    assert frequency_column(values, lambda fault: None) == [as_text(entry.get("frequency")) for entry in values]
    assert as_text(deep) == "a list of many within each other"
    assert as_text("ä") == "ä"
    assert as_text(5) == "5"
