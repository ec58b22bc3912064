"""Masks with scores of their own: masks are ranked by them, boxes are not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_cases import coco_set
from evaluation_oracles import pycocotools_evaluation

from rst.cli.predictions import describe
from rst.data import DataError
from rst.evaluation import evaluate_detections, to_coco_results


def write(folder: Path, truth: dict[str, Any]) -> Path:
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    return file


def test_masks_are_ranked_by_their_own_scores_and_boxes_are_not(tmp_path: Path):
    truth, results = coco_set(6, 20, 2, seed=3, side=120, masks=True)
    random = np.random.default_rng(0)
    own = [result | {"mask_score": float(random.random())} for result in results]
    file = write(tmp_path, truth)
    for iou_type, score in (("bbox", "score"), ("segm", "mask_score")):
        found = evaluate_detections(file, own, iou_type)
        scored = [result | {"score": result[score]} for result in own]
        expected = pycocotools_evaluation(truth, scored, iou_type)
        np.testing.assert_allclose(list(found.values())[:12], expected.stats, rtol=0, atol=1e-12)
    assert evaluate_detections(file, own, "segm") != evaluate_detections(file, results, "segm")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (2.0, r"results\[1\]: mask_score must lie in \[0, 1\], is 2.0"),
        (float("nan"), r"results\[1\]: mask_score is not a finite number"),
        ("high", r"results\[1\]: mask_score is not a finite number"),
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, score: Any, words: str):
    truth, results = coco_set(2, 10, 2, seed=3, side=120, masks=True)
    file, own = write(tmp_path, truth), [dict(result) for result in results]
    own[1]["mask_score"] = score
    with pytest.raises(DataError, match=words):
        evaluate_detections(file, own, "segm")
    evaluate_detections(file, own, "bbox")


def test_a_detectors_mask_scores_reach_the_results():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    found = {
        "boxes": torch.tensor([[2.0, 2, 6, 6], [1, 1, 7, 7]]),
        "labels": torch.tensor([0, 1]),
        "scores": torch.tensor([0.9, 0.8]),
        "masks": masks,
        "mask_scores": torch.tensor([0.25, 0.5]),
    }
    target = {"image_id": 4, "size": (8, 8), "original_size": (16, 16)}
    results = to_coco_results([found], [target], [3, 5])
    assert [(entry["score"], entry["mask_score"]) for entry in results] == [
        (pytest.approx(0.9), 0.25),
        (pytest.approx(0.8), 0.5),
    ]
    described = describe(found, ["a", "b"])
    assert [entry["mask_score"] for entry in described] == [0.25, 0.5]
    with pytest.raises(ValueError, match=r"mask_scores have shape \(1,\), scores \(2,\)"):
        to_coco_results([found | {"mask_scores": torch.tensor([0.5])}], [target], [3, 5])
