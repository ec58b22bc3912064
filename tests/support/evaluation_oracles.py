"""The published evaluators, quiet, and oLRP by loops over what they matched."""

import contextlib
import copy
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OTHER = {"bbox": "segmentation", "segm": "bbox"}


def only_shape(results: list[dict[str, Any]], iou_type: str) -> list[dict[str, Any]]:
    """Results without the shape that is not compared, whose area pycocotools and lvis would take otherwise."""
    return [{key: value for key, value in result.items() if key != OTHER[iou_type]} for result in results]


def pycocotools_evaluation(truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> COCOeval:
    """evaluate, accumulate and summarize of pycocotools; an empty list of results is one without annotations."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotated, found = COCO(), COCO()
        annotated.dataset = copy.deepcopy(truth)
        annotated.createIndex()
        if results:
            found = annotated.loadRes(copy.deepcopy(only_shape(results, iou_type)))
        else:
            found.dataset = copy.deepcopy(truth) | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(annotated, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def lvis_evaluation(
    truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """LVISEval of the lvis package 0.5.3 after its run."""
    monkeypatch.setattr(np, "float", float, raising=False)  # numpy's old alias
    monkeypatch.setitem(sys.modules, "cv2", sys.modules.get("cv2", ModuleType("cv2")))  # it draws images with that
    from lvis.eval import LVISEval
    from lvis.lvis import LVIS
    from lvis.results import LVISResults

    file = folder / "lvis_truth.json"
    file.write_text(json.dumps(truth))
    annotated = LVIS(str(file))
    given = folder / "lvis_results.json"  # a list it takes with a deprecated warning
    given.write_text(json.dumps(only_shape(results, iou_type)))
    found = LVISResults(annotated, str(given))
    evaluation = LVISEval(annotated, found, iou_type)
    evaluation.run()
    return evaluation


def lrp_of_matches(images: list[dict[str, Any] | None], ious: dict[Any, Any], object_ids: dict[Any, list[int]]):
    """oLRP, Loc, FP, FN and threshold (paper-like names) of one class and size from the matches at an IoU of .5.

    Args:
        images: pycocotools' evalImgs of the class and size, keys of lvis renamed.
        ious: (image id, category id) -> table; its columns are the objects in `object_ids`.
    """
    rows, objects = [], 0
    for image in images:
        if image is None:
            continue
        place = image["image_id"], image["category_id"]
        objects += int(np.count_nonzero(np.asarray(image["gtIgnore"]) == 0))
        for d, score in enumerate(image["dtScores"]):
            if image["dtIgnore"][0][d]:
                rows.append((score, None))
            elif image["dtMatches"][0][d]:
                rows.append((score, ious[place][d][object_ids[place].index(int(image["dtMatches"][0][d]))]))
            else:
                rows.append((score, 0.0))
    if not objects:
        return None
    rows.sort(key=lambda row: -row[0])  # stable
    if not any(iou for _, iou in rows):
        return 1.0, None, None, 1.0, None
    best = (np.inf,)
    tp = fp = 0
    distance = 0.0
    for score, iou in rows:
        if iou:
            tp, distance = tp + 1, distance + 1 - iou
        elif iou is not None:
            fp += 1
        fn = objects - tp
        error = (distance / 0.5 + fp + fn) / (tp + fp + fn)
        if error < best[0] - 1e-13:
            best = (error, distance / tp if tp else None, fp / (tp + fp) if tp + fp else None, fn / objects, score)
    return best
