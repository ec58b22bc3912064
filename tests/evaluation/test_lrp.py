"""oLRP: by hand, against the published numbers, and against loops over pycocotools' matches."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import coco_set
from evaluation_oracles import lrp_of_matches, pycocotools_evaluation

from rst.evaluation import evaluate, evaluate_detections
from rst.evaluation.lrp import GRID, on_grid

SIZES = ("", "s", "m", "l")


@pytest.fixture
def annotations(tmp_path: Path):
    def write(content: dict[str, Any]) -> Path:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write


def set_of(objects: int, found: list[tuple[int | None, float, float]]):
    """Squares of 100 pixels side by side, and detections (object or None, IoU with it, score)."""
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "height": 400, "width": 1000}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [100 * i, 0, 100, 100], "area": 10000, "iscrowd": 0}
            for i in range(objects)
        ],
    }
    results = [
        {
            "image_id": 1,
            "category_id": 1,
            "bbox": [900, 300, 50, 50] if place is None else [100 * place, 0, 100, 100 * iou],
            "score": score,
        }
        for place, iou, score in found
    ]
    return truth, results


def test_the_toy_worked_by_hand(annotations):
    """Three objects; found with IoUs .9 and .6, a false positive between them: LRP is .7333, .8, .75 (spec by hand)."""
    truth, results = set_of(3, [(0, 0.9, 0.9), (None, 0, 0.8), (1, 0.6, 0.7)])
    evaluation = evaluate(annotations(truth), results)
    np.testing.assert_allclose(evaluation.curves[0].scores, [0.9, 0.8, 0.7])
    np.testing.assert_allclose(evaluation.curves[0].errors, [2.2 / 3, 0.8, 0.75], atol=1e-12)
    parts = [evaluation.metrics[f"oLRP{part}"] for part in ("", "_Loc", "_FP", "_FN")]
    np.testing.assert_allclose(parts, [2.2 / 3, 0.1, 0.0, 2 / 3], atol=1e-12)
    assert evaluation.threshold == evaluation.classes[0]["threshold"] == 0.9


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers(tree, annotations, case, iou_type):
    with gzip.open(tree / "tests/data/detections.json.gz") as file:
        content = json.load(file)[case]
    evaluation = evaluate(annotations(content["gt"]), content["dt"], iou_type)
    expected = content[iou_type]
    for name, key in (("oLRP", "olrp"), ("oLRP_Loc", "olrp_loc"), ("oLRP_FP", "olrp_fp"), ("oLRP_FN", "olrp_fn")):
        assert evaluation.metrics[name] == pytest.approx(expected[key], rel=0, abs=1e-9), name
    np.testing.assert_allclose(
        [entry["oLRP"] for entry in evaluation.classes], expected["per_class_olrp"], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("decimals", [3, 1])
def test_every_class_and_size_is_that_of_loops_over_pycocotools_matches(annotations, iou_type, decimals):
    truth, results = coco_set(12, 60, 4, seed=5, side=300, masks=iou_type == "segm", decimals=decimals)
    evaluation = evaluate(annotations(truth), results, iou_type)
    oracle = pycocotools_evaluation(truth, results, iou_type)
    object_ids: dict[Any, list[int]] = {}
    for entry in truth["annotations"]:
        object_ids.setdefault((entry["image_id"], entry["category_id"]), []).append(entry["id"])
    images = len(truth["images"])
    means: dict[str, list[float]] = {}
    for k, entry in enumerate(evaluation.classes):
        for a, size in enumerate(SIZES):
            start = (k * len(SIZES) + a) * images
            expected = lrp_of_matches(oracle.evalImgs[start : start + images], oracle.ious, object_ids)
            if expected is None:
                assert entry[f"oLRP{size}"] == -1
                continue
            for part, value in zip(("", "_Loc", "_FP", "_FN"), expected, strict=False):
                assert entry[f"oLRP{size}{part}"] == pytest.approx(-1 if value is None else value, rel=0, abs=1e-9)
                if value is not None:
                    means.setdefault(f"oLRP{size}{part}", []).append(value)
            if size == "":
                assert entry["threshold"] == expected[4]
    for name, values in means.items():
        assert evaluation.metrics[name] == pytest.approx(np.mean(values), rel=0, abs=1e-9)
    assert len(means) == 16, "every part in every size"


def test_a_class_that_is_never_found_misses_all_and_recommends_nothing(annotations):
    truth, results = set_of(2, [(None, 0, 0.9)])
    evaluation = evaluate(annotations(truth), results)
    assert [evaluation.metrics[f"oLRP{part}"] for part in ("", "_Loc", "_FP", "_FN")] == [1.0, -1.0, -1.0, 1.0]
    assert evaluation.classes[0]["threshold"] is evaluation.threshold is None


def test_a_find_at_an_overlap_of_one_half_is_no_better_than_none(annotations):
    truth, results = set_of(2, [(None, 0, 0.9), (0, 0.5, 0.8)])
    evaluation = evaluate(annotations(truth), results)
    np.testing.assert_allclose(evaluation.curves[0].errors, [1.0, 1.0])
    # The first of equal cuts, as published, has no true positive: no localisation error, all detections wrong
    assert [evaluation.metrics[f"oLRP{part}"] for part in ("", "_Loc", "_FP", "_FN")] == [1.0, -1.0, 1.0, 1.0]
    assert evaluation.classes[0]["threshold"] is None


def test_the_threshold_keeps_what_is_worth_keeping(annotations):
    """Detections kept by the recommended threshold have the LRP error that was promised."""
    truth, results = coco_set(15, 60, 3, seed=6, side=200, decimals=9)  # no two scores are equal
    evaluation = evaluate(annotations(truth), results)
    for k, entry in enumerate(evaluation.classes[:3]):
        kept = [r for r in results if r["category_id"] == entry["id"] and r["score"] >= entry["threshold"]]
        again = evaluate(annotations(truth), kept)
        assert again.curves[k].errors[-1] == pytest.approx(entry["oLRP"])
    kept = [result for result in results if result["score"] >= evaluation.threshold]
    curves = evaluate(annotations(truth), kept).curves[:3]
    assert np.mean([curve.errors[-1] for curve in curves]) == pytest.approx(evaluation.mean_error.min())
    assert evaluation.mean_error.min() >= evaluation.metrics["oLRP"]


def test_the_curve_over_the_grid_of_scores(annotations):
    truth, results = set_of(2, [(0, 0.9, 0.75), (1, 0.9, 0.25)])
    curve = evaluate(annotations(truth), results).curves[0]
    values = dict(zip(GRID.tolist(), on_grid(curve).tolist(), strict=True))
    assert values[1.0] == values[0.751] == 1.0
    assert values[0.75] == values[0.251] == pytest.approx(0.6)
    assert values[0.25] == values[0.0] == pytest.approx(0.2)


def test_perfect_detections_have_no_error(annotations):
    truth, results = set_of(4, [(i, 1.0, 0.5) for i in range(4)])
    metrics = evaluate_detections(annotations(truth), results)
    assert [metrics[f"oLRP{part}"] for part in ("", "_Loc", "_FP", "_FN")] == [0.0] * 4
