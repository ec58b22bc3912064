"""How many positives a detector finds per pyramid level, counted by the detector itself on a sample of the images.

k  objects of an image    P  positives of a head
"""

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from rst.coco.columns import Columns


def count_positives(
    model: Any,
    transforms: Callable[..., Any],
    columns: Columns,
    corners: np.ndarray,  # (K, 4) XYXY pixels, NaN where there is no usable box
    advance: Callable[[int], object],
    sample: int,
) -> dict[str, Any]:
    """Positives of each head that assigns anchors, on blank images: assignment looks at their size only.

    Args:
        model: a detector with `positives(images, targets)`; see `rst.detectors`.
        transforms: those of the training, which resize images and boxes as it does.
        columns, corners: the data set.
        advance: called with the number of images done since.
        sample: images looked at, of those with objects.

    Returns:
        JSON values: "images" and "objects" looked at, and "heads", for each the mean positives per image on each level
        ("P2" has stride 4) and the share of objects without any.
    """
    usable = np.flatnonzero(np.isfinite(corners[:, 0]) & (columns.label >= 0) & (columns.image >= 0))
    images = np.unique(columns.image[usable])
    if len(images) > sample:
        images = np.random.default_rng(0).choice(images, sample, replace=False)
    objects, levels, missed = 0, {}, Counter()
    masks = "segm" in getattr(model, "iou_types", ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the transforms draw sizes and crops
        for index in images.tolist():
            rows = usable[columns.image[usable] == index]
            image, target = _blank(columns, corners, index, rows, transforms, masks)
            objects += len(target["boxes"])
            for head, found in model.positives([image], [target]).items():
                levels.setdefault(head, Counter()).update(found.level.tolist())
                missed[head] += len(target["boxes"]) - len(found.truth.unique())
            advance(1)
    return {
        "images": len(images),
        "objects": objects,
        "heads": {
            head: {
                "title": getattr(model, "heads", {}).get(head, head),
                "per_image": {f"P{level}": round(counts[level] / len(images), 2) for level in sorted(counts)},
                "share_of_objects_without": round(missed[head] / max(objects, 1), 4),
            }
            for head, counts in levels.items()
        },
    }


def _blank(
    columns: Columns, corners: np.ndarray, index: int, rows: np.ndarray, transforms: Callable[..., Any], masks: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """A blank image and its target, as the training would get them; masks are rectangles."""
    height, width = columns.sizes[index].tolist()
    boxes = torch.from_numpy(corners[rows].astype(np.float32))
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),  # type: ignore[call-overload]
        "labels": torch.from_numpy(columns.label[rows].astype(np.int64)),
    }
    if masks:
        planes = torch.zeros(len(rows), height, width, dtype=torch.uint8)
        for plane, (x0, y0, x1, y1) in zip(planes, corners[rows].tolist(), strict=True):
            plane[int(y0) : ceil(y1), int(x0) : ceil(x1)] = 1
        target["masks"] = tv_tensors.Mask(planes)
    image, target = transforms(tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)), target)
    plain = {key: value.as_subclass(torch.Tensor) for key, value in target.items()}
    return image.as_subclass(torch.Tensor), plain
