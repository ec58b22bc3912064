"""COCO's average precision of a list of detections, by pycocotools.

A result is COCO's: {"image_id", "category_id", "bbox" [x, y, width, height] in pixels and / or "segmentation" (run
lengths), "score"}. pycocotools prints, compares ids with `assert` and takes results for boxes whenever the first has a
"bbox"; here results are checked, and handed over with the one shape that is evaluated.

Letters: n detections of a picture, C classes.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rst.data.errors import DataError
from rst.data.fields import integers, load_json, refuse_duplicates, section
from rst.data.masks import check_segmentation, decode_segmentation

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def to_coco_results(
    detections: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections of a batch as COCO results, in pixels of the picture files.

    Args:
        detections: per picture "boxes" (n, 4) XYXY pixels of the resized picture, "labels" (n,) in [0, C),
            "scores" (n,).
        targets: per picture "image_id", "original_size" (height, width) of the file and "size" (height, width) of the
            resized picture, as `CocoDetection` gives them.
        category_ids: (C,) COCO category of each label.

    Returns:
        COCO results, boxes scaled back and clipped to the picture, plain Python numbers.

    Raises:
        ValueError: a missing key, lengths that differ, a label that is no class, a box or score that is not finite.
    """
    if len(detections) != len(targets):
        raise ValueError(f"detections of {len(detections)} pictures, but targets of {len(targets)}")
    results: list[dict[str, Any]] = []
    for detection, target in zip(detections, targets, strict=True):
        for key, holder in (("image_id", target), ("original_size", target), ("size", target)):
            if key not in holder:
                raise ValueError(f"target of image {target.get('image_id', '?')} has no key '{key}'")
        image_id = int(target["image_id"])
        boxes, labels, scores = (_array(detection, key, image_id) for key in ("boxes", "labels", "scores"))
        if boxes.shape != (len(scores), 4) or labels.shape != scores.shape or scores.ndim != 1:
            raise ValueError(
                f"detections of image {image_id}: boxes {boxes.shape}, labels {labels.shape} and scores {scores.shape} "
                f"must have shapes (n, 4), (n,) and (n,)"
            )
        for name, values in (("boxes", boxes), ("scores", scores)):
            if not np.isfinite(values).all():
                raise ValueError(f"detections of image {image_id}: {name} are not finite")
        for label in labels[(labels < 0) | (labels >= len(category_ids))]:
            raise ValueError(f"detections of image {image_id}: label {label} is not in [0, {len(category_ids)})")
        (height, width), (h, w) = target["original_size"], target["size"]
        scale, limit = [width / w, height / h] * 2, [width, height] * 2
        boxes = (boxes * scale).clip(0.0, limit)
        boxes[:, 2:] -= boxes[:, :2]
        results += [
            {"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score}
            for box, label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True)
        ]
    return results


def evaluate_detections(
    annotations: str | Path, results: Sequence[dict[str, Any]] | str | Path, iou_type: Literal["bbox", "segm"] = "bbox"
) -> dict[str, float]:
    """The twelve numbers of COCO.

    Args:
        annotations: COCO file with the ground truth.
        results: COCO results, or a JSON file of them; may be empty.
        iou_type: "bbox" compares boxes, "segm" masks.

    Returns:
        AP (mean over IoU .50:.95), AP50, AP75, of small (< 32^2 px), medium and large (> 96^2 px) objects, and the
        average recall with 1, 10 and 100 detections a picture and by size; in [0, 1], -1 where there is no object.

    Raises:
        DataError: a file cannot be read as COCO.
        ValueError: a result with an unknown image or category, or a number that is not finite.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    source = "results"
    if isinstance(results, str | Path):
        source, results = str(results), load_json(Path(results))
    if not isinstance(results, Sequence) or isinstance(results, str):
        raise DataError(f"{source}: must be a list of results, is {type(results).__name__}")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _ground_truth(Path(annotations), iou_type)
        found = _coco({**truth.dataset, "annotations": _checked(results, truth, iou_type, source)})
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def format_table(metrics: dict[str, float]) -> str:
    """The metrics in per cent, as a table for a terminal; "-" where a number is undefined."""
    rows = [list(metrics)[i : i + 6] for i in range(0, len(metrics), 6)]
    lines = []
    for names in rows:
        lines.append("".join(f"{name:>7}" for name in names))
        lines.append(
            "".join(f"{'-' if metrics[name] < 0 else format(100 * metrics[name], '.1f'):>7}" for name in names)
        )
    return "\n".join(lines)


def _array(detection: dict[str, Any], key: str, image_id: int) -> np.ndarray:
    if key not in detection:
        raise ValueError(f"detections of image {image_id} have no key '{key}'")
    value = torch.as_tensor(detection[key]).detach().cpu()
    return value.numpy() if key == "labels" else value.double().numpy()


def _ground_truth(file: Path, iou_type: str) -> COCO:
    """The annotation file with areas and crowd flags filled in where other tools leave them out."""
    content = load_json(file)
    images, objects, categories = (section(content, key, file) for key in ("images", "annotations", "categories"))
    for entries, kind in ((images, "image"), (objects, "annotation"), (categories, "category")):
        refuse_duplicates(integers(entries, "id", kind, file), kind, file)
    known_images, known_categories = ({entry["id"]: entry for entry in entries} for entries in (images, categories))
    heights, widths = (integers(images, side, "image", file).tolist() for side in ("height", "width"))
    sizes = {image["id"]: size for image, size in zip(images, zip(heights, widths, strict=True), strict=True)}
    truth = []
    for entry in objects:
        for key, known in (("image_id", known_images), ("category_id", known_categories)):
            if entry.get(key) not in known:
                raise DataError(f"{file}: annotation {entry['id']}: {key} {entry.get(key)} is not in this file")
        where = f"{file}: annotation {entry['id']}"
        if iou_type == "bbox":
            box = entry.get("bbox")
            if not _is_box(box):
                raise DataError(f"{where}: 'bbox' must be four finite numbers, is {box!r:.60}")
            area = box[2] * box[3]
        else:
            size = sizes[entry["image_id"]]
            usable = check_segmentation(entry.get("segmentation"), *size, where)
            area = 0 if usable is None or "area" in entry else int(decode_segmentation(usable, *size, where).sum())
        truth.append({"iscrowd": 0, "area": area} | entry)
    return _coco({"images": images, "annotations": truth, "categories": categories})


def _checked(results: Sequence[Any], truth: COCO, iou_type: str, source: str) -> list[dict[str, Any]]:
    """Results with the fields that COCOeval needs, and only the shape that is evaluated."""
    shape = "bbox" if iou_type == "bbox" else "segmentation"
    checked = []
    for i, result in enumerate(results):
        where = f"{source}[{i}]"
        if not isinstance(result, dict):
            raise ValueError(f"{where} must be an object, is {result!r:.60}")
        for key in ("image_id", "category_id", "score", shape):
            if key not in result:
                raise ValueError(f"{where} has no key '{key}'")
        if result["image_id"] not in truth.imgs:
            raise ValueError(f"{where}: image_id {result['image_id']!r} is no image of the ground truth")
        if result["category_id"] not in truth.cats:
            raise ValueError(f"{where}: category_id {result['category_id']!r} is no category of the ground truth")
        if not _is_finite(result["score"]):
            raise ValueError(f"{where}: score is not a finite number: {result['score']!r}")
        entry = {"id": i + 1, "iscrowd": 0} | {key: result[key] for key in ("image_id", "category_id", "score", shape)}
        if iou_type == "bbox":
            box = result["bbox"]
            if not _is_box(box):
                raise ValueError(f"{where}: bbox must be four finite numbers, is {box!r:.60}")
            entry["area"] = box[2] * box[3]
        else:
            mask, image = result["segmentation"], truth.imgs[result["image_id"]]
            if not (isinstance(mask, dict) and isinstance(mask.get("counts"), str)):
                raise ValueError(f"{where}: segmentation must be compressed run lengths, is {mask!r:.60}")
            check_segmentation(mask, image["height"], image["width"], where)
            entry["area"] = float(coco_mask.area(mask))  # type: ignore[arg-type]
        checked.append(entry)
    return checked


def _coco(dataset: dict[str, Any]) -> COCO:
    coco: Any = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _is_box(value: Any) -> TypeGuard[Sequence[float]]:
    return isinstance(value, Sequence) and len(value) == 4 and all(map(_is_finite, value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
