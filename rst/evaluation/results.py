"""A detector's output as COCO results: plain numbers, in pixels of the picture files.

Letters: n detections of a picture, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


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


def _array(detection: dict[str, Any], key: str, image_id: int) -> np.ndarray:
    if key not in detection:
        raise ValueError(f"detections of image {image_id} have no key '{key}'")
    value = torch.as_tensor(detection[key]).detach().cpu()
    return value.numpy() if key == "labels" else value.double().numpy()
