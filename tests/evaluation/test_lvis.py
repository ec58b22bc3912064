"""LVIS's numbers: against the lvis package on a federated set, and its rules one by one."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import federated_set
from evaluation_oracles import lrp_of_matches, lvis_evaluation

from rst.coco.masks import decode_segmentation, encode_mask
from rst.data import DataError
from rst.data.samples import shapes
from rst.evaluation import Evaluation, evaluate, evaluate_detections

LVIS_METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR300", "ARs", "ARm", "ARl"]


@pytest.fixture
def annotations(tmp_path: Path):
    def write(content: dict[str, Any]) -> Path:
        path = tmp_path / "lvis.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_every_number_is_that_of_the_lvis_package(annotations, tmp_path, monkeypatch, iou_type):
    images, detections = (12, 350) if iou_type == "bbox" else (8, 320)  # beyond the limit of 300 an image
    truth, results = federated_set(images, detections, 40, seed=3, masks=iou_type == "segm")
    evaluation = evaluate(annotations(truth), results, iou_type)
    assert evaluation.truth.protocol.name == "lvis"
    assert evaluation.metrics["AP"] > 0.1
    compare(evaluation, lvis_evaluation(truth, results, iou_type, tmp_path, monkeypatch), truth)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_procedural_set(tmp_path, monkeypatch, iou_type):
    shapes.prepare(tmp_path / "shapes", train=60, val=24, side=96, seed=1, variant="lvis", classes=60)
    file = tmp_path / "shapes" / "annotations" / "val.json"
    truth = json.loads(file.read_text())
    results = imperfect(truth, seed=2)
    evaluation = evaluate(file, results, iou_type)
    assert set(evaluation.truth.frequencies) == {"r", "c"}, "a frequent class would need more than 100 images"
    assert evaluation.metrics["AP"] > 0.1
    compare(evaluation, lvis_evaluation(truth, results, iou_type, tmp_path, monkeypatch), truth)


def compare(evaluation: Evaluation, oracle: Any, truth: dict[str, Any]) -> None:
    """AP and recall with lvis's, oLRP with loops over its matches."""
    expected = {name.removesuffix("@300"): value for name, value in oracle.get_results().items()}
    expected["AR300"] = expected.pop("AR")
    assert list(evaluation.metrics)[:13] == LVIS_METRICS
    for name in LVIS_METRICS:
        assert evaluation.metrics[name] == pytest.approx(expected[name], rel=0, abs=1e-12), name
    np.testing.assert_allclose(evaluation.precision, oracle.eval["precision"], rtol=0, atol=1e-12)

    object_ids: dict[Any, list[int]] = {}
    for entry in truth["annotations"]:
        object_ids.setdefault((entry["image_id"], entry["category_id"]), []).append(entry["id"])
    images = len(truth["images"])
    errors: dict[str, list[float]] = {"r": [], "c": [], "f": []}
    for k, entry in enumerate(evaluation.classes):
        of_class = [_renamed(image) for image in oracle.eval_imgs[4 * k * images : (4 * k + 1) * images]]
        lrp = lrp_of_matches(of_class, oracle.ious, object_ids)
        if lrp is None:
            continue
        errors[entry["frequency"]].append(lrp[0])
        for part, value in zip(("", "_Loc", "_FP", "_FN"), lrp, strict=False):
            assert entry[f"oLRP{part}"] == pytest.approx(-1 if value is None else value, rel=0, abs=1e-9)
    for frequency, values in errors.items():
        mean = np.mean(values) if values else -1
        assert evaluation.metrics[f"oLRP{frequency}"] == pytest.approx(mean, rel=0, abs=1e-9)
    every = [error for values in errors.values() for error in values]
    assert evaluation.metrics["oLRP"] == pytest.approx(np.mean(every), rel=0, abs=1e-9)


def imperfect(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Most objects found, moved by some pixels, some of them under another class or twice."""
    random = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = [category["id"] for category in truth["categories"]]
    results = []
    for entry in truth["annotations"] * 2:
        if random.random() < 0.2:
            continue
        by = random.integers(-2, 3, 2)
        (height, width), (x, y, w, h) = sizes[entry["image_id"]], entry["bbox"]
        mask = np.roll(decode_segmentation(entry["segmentation"], height, width, ""), by, (1, 0))
        results.append(
            {
                "image_id": entry["image_id"],
                "category_id": int(random.choice(categories)) if random.random() < 0.2 else entry["category_id"],
                "bbox": [x + int(by[0]), y + int(by[1]), w, h],
                "segmentation": encode_mask(mask),
                "score": round(float(random.random()), 2),
            }
        )
    return results


def _renamed(image: dict[str, Any] | None) -> dict[str, Any] | None:
    """lvis's eval_imgs under pycocotools' names."""
    if image is None:
        return None
    names = {"gt_ignore": "gtIgnore", "dt_scores": "dtScores", "dt_ignore": "dtIgnore", "dt_matches": "dtMatches"}
    return {names.get(key, key): value for key, value in image.items()}


BOX = [10, 10, 40, 40]
FEDERATED: dict[str, Any] = {
    "images": [
        {"id": i, "height": 100, "width": 100, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
        for i in (1, 2)
    ],
    "categories": [{"id": i, "name": f"class {i}", "frequency": "rcf"[i - 1]} for i in (1, 2, 3)],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 1600}],
}


def result(image_id: int, category_id: int, score: float, box: list[int] = BOX) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def test_a_detection_counts_where_its_class_is_annotated_or_known_to_be_absent(annotations):
    right = result(1, 1, 0.5)
    assert evaluate_detections(annotations(FEDERATED), [right])["AP"] == pytest.approx(1.0)
    unknown = [right, result(2, 1, 0.9), result(1, 3, 0.9)]  # nothing is said of class 1 in image 2, nor of 3
    evaluation = evaluate(annotations(FEDERATED), unknown)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert [entry["detections"] for entry in evaluation.classes] == [1, 0, 0]
    content = copy.deepcopy(FEDERATED)
    content["images"][1]["neg_category_ids"] = [1]
    metrics = evaluate_detections(annotations(content), unknown)
    assert (metrics["AP"], metrics["APr"], metrics["APc"]) == (pytest.approx(0.5), pytest.approx(0.5), -1.0)
    assert evaluate_detections(annotations(FEDERATED), unknown, protocol="coco")["AP"] == pytest.approx(0.5)


def test_where_not_all_objects_are_annotated_an_unmatched_detection_is_not_wrong(annotations):
    results = [result(1, 1, 0.5), result(1, 1, 0.9, [60, 60, 30, 30])]
    assert evaluate_detections(annotations(FEDERATED), results)["AP"] == pytest.approx(0.5)
    content = copy.deepcopy(FEDERATED)
    content["images"][0]["not_exhaustive_category_ids"] = [1]
    metrics = evaluate_detections(annotations(content), results)
    assert (metrics["AP"], metrics["oLRP"], metrics["oLRP_FP"]) == pytest.approx((1.0, 0.0, 0.0))


def test_300_detections_of_an_image_count_whatever_their_classes(annotations):
    others = [result(1, 3, 0.9) for _ in range(299)]
    assert evaluate_detections(annotations(FEDERATED), [*others, result(1, 1, 0.5)])["AP"] == pytest.approx(1.0)
    assert evaluate_detections(annotations(FEDERATED), [*others, others[0], result(1, 1, 0.5)])["AP"] == 0.0


def test_a_coco_file_is_no_lvis_file(annotations):
    content = copy.deepcopy(FEDERATED)
    for entry in content["images"]:
        del entry["neg_category_ids"]
    assert "AR100" in evaluate_detections(annotations(content), [])
    with pytest.raises(
        DataError,
        match=r"lvis.json: image 1: 'neg_category_ids' must be a list of category ids in an LVIS file, is missing",
    ):
        evaluate(annotations(content), [], protocol="lvis")
    content = copy.deepcopy(FEDERATED)
    content["categories"][1]["frequency"] = "x"
    with pytest.raises(
        DataError, match=r"lvis.json: category 2: 'frequency' must be one of r, c, f in an LVIS file, is 'x'"
    ):
        evaluate(annotations(content), [])
    content = copy.deepcopy(FEDERATED)
    del content["images"][1]["not_exhaustive_category_ids"]
    with pytest.raises(DataError, match=r"image 2: 'not_exhaustive_category_ids' must be a list .*, is missing"):
        evaluate(annotations(content), [])
    content["images"][1]["not_exhaustive_category_ids"] = 7
    with pytest.raises(
        DataError, match=r"image 2: 'not_exhaustive_category_ids' must be a list of category ids in an LVIS file, is 7"
    ):
        evaluate(annotations(content), [])
    with pytest.raises(ValueError, match=r"protocol must be 'coco', 'lvis' or 'auto', got 'voc'"):
        evaluate(annotations(FEDERATED), [], protocol="voc")  # type: ignore[arg-type]
