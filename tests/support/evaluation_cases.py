"""Ground truth and detections by the hundred, with everything that evaluators differ on.

Crowds, objects at the very edges of the size ranges, equal scores, equal IoUs, several detections of one object,
detections of classes that the image does not have, more detections than count, classes without objects.
"""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

SIDES = (120, 200)  # pixels: the images of `federated_set` and of masks are this high and wide


def coco_set(
    images: int,
    detections: int,
    classes: int,
    *,
    seed: int,
    objects: float = 7.0,
    side: int = 640,
    masks: bool = False,
    decimals: int = 3,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO annotations, and COCO results with so many detections in every image.

    Args:
        objects: mean number an image; an image may have none.
        side: of the square images, in pixels.
        masks: give ellipses as masks too, in both.
        decimals: of the scores: the fewer, the more are equal.
    """
    random = np.random.default_rng(seed)
    frequency = 1.0 / np.arange(1, classes + 1)
    truth: dict[str, Any] = {
        "images": [{"id": 3 * i + 2, "file_name": f"{i}.png", "height": side, "width": side} for i in range(images)],
        "categories": [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(classes + 1)],  # the last has no object
        "annotations": [],
    }
    results = []
    for image in reversed(truth["images"]):
        count = random.poisson(objects)
        labels = random.choice(classes, count, p=frequency / frequency.sum())
        boxes = _boxes(random, count, side)
        for label, box in zip(labels.tolist(), boxes.tolist(), strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": 2 * label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(random.random() < 0.05),
                }
            )
        near = random.integers(0, max(count, 1), detections)
        hits = random.random(detections) < (0.6 if count else 0.0)
        found = np.where(hits[:, None], boxes[near % max(count, 1)] if count else 0.0, _boxes(random, detections, side))
        moved = found + hits[:, None] * np.round(random.normal(0, 0.12, (detections, 4)) * found[:, [2, 3, 2, 3]])
        moved[:, 2:] = moved[:, 2:].clip(min=1)
        right_label = labels[near % max(count, 1)] if count else np.zeros(detections, int)
        label = np.where(hits & (random.random(detections) < 0.9), right_label, random.integers(0, classes, detections))
        scores = np.round(random.beta(2, 3, detections) * np.where(hits, 1.0, 0.6), decimals)
        results += [
            {"image_id": image["id"], "category_id": 2 * k + 1, "bbox": box, "score": score}
            for k, box, score in zip(label.tolist(), moved.tolist(), scores.tolist(), strict=True)
        ]
    if masks:
        for entry in (*truth["annotations"], *results):
            entry["segmentation"] = ellipse(entry["bbox"], side, side)
        for entry in truth["annotations"]:
            entry["area"] = float(coco_mask.area(entry["segmentation"]))
    return truth, results


def federated_set(
    images: int, detections: int, classes: int, *, seed: int, masks: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """LVIS annotations, and results: each image names few of the classes that it does not have, and in some of
    those that it has not all objects are annotated."""
    truth, results = coco_set(images, detections, classes, seed=seed, side=SIDES[1], masks=masks, decimals=2)
    random = np.random.default_rng(seed + 1)
    ids = [entry["id"] for entry in truth["categories"]]
    present: dict[int, set[int]] = {image["id"]: set() for image in truth["images"]}
    for entry in truth["annotations"]:
        del entry["iscrowd"]
        present[entry["image_id"]].add(entry["category_id"])
    for image in truth["images"]:
        has = sorted(present[image["id"]])
        absent = [i for i in ids if i not in present[image["id"]]]
        image["neg_category_ids"] = random.choice(absent, min(3, len(absent)), replace=False).tolist()
        image["not_exhaustive_category_ids"] = [i for i in has if random.random() < 0.3]
    for k, category in enumerate(truth["categories"]):
        category |= {"frequency": "fcr"[min(3 * k // classes, 2)], "image_count": 1 + classes - k}
    return truth, results


def ellipse(box: list[float], height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of the ellipse inside a box, cut off at the image's edges."""
    x, y, w, h = box
    rows, columns = np.ogrid[:height, :width]
    inside = ((columns + 0.5 - x - w / 2) / (w / 2)) ** 2 + ((rows + 0.5 - y - h / 2) / (h / 2)) ** 2 <= 1
    runs: Any = coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))
    return {"size": [height, width], "counts": runs["counts"].decode("ascii")}


def _boxes(random: np.random.Generator, count: int, side: int) -> np.ndarray:
    """(count, 4) [x, y, width, height] in whole pixels, inside the image; some of exactly 32 or 96 pixels a side."""
    sides = np.exp(random.uniform(np.log(4), np.log(side / 2), (count, 2))).round()
    sides[random.random(count) < 0.05] = 32
    if side > 2 * 96:
        sides[random.random(count) < 0.05] = 96
    corners = (random.random((count, 2)) * (side - sides)).round()
    return np.concatenate([corners, sides], 1)
