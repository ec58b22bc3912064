"""What is in a data set: sizes, objects, classes and their tail.

N  images    K  annotations    C  classes
"""

from typing import Any

import numpy as np

from rst.coco.columns import Columns
from rst.coco.lvis import is_lvis
from rst.data.check.lvis import frequency_counts

SMALL, LARGE = 32**2, 96**2  # square pixels: COCO's bounds, by the area of the box
FEW = 10  # objects; fewer are hardly enough to learn a class


def describe(
    columns: Columns,
    corners: np.ndarray,  # (K, 4) XYXY pixels, NaN where there is no usable box
) -> dict[str, Any]:
    """Counts and percentiles as JSON values."""
    good = np.flatnonzero(np.isfinite(corners[:, 0]) & (columns.label >= 0))
    image, label = columns.image[good], columns.label[good]
    sides = corners[good, 2:] - corners[good, :2]  # (k, 2) width and height
    objects_of = np.bincount(image, minlength=len(columns.image_ids))
    return {
        "images": _images(columns.sizes, objects_of),
        "objects": _objects(sides, int(columns.ignored.sum()), objects_of),
        "classes": _classes(columns, image, label),
    }


def _images(sizes: np.ndarray, objects_of: np.ndarray) -> dict[str, Any]:
    known = sizes[(sizes > 0).all(1)]
    by_area = known[np.argsort(known.astype(np.int64).prod(1), kind="stable")].tolist()
    return {
        "count": len(sizes),
        "with_objects": int((objects_of > 0).sum()),
        "without_objects": int((objects_of == 0).sum()),
        "wide": int((known[:, 1] > known[:, 0]).sum()),
        "upright": int((known[:, 1] < known[:, 0]).sum()),
        "square": int((known[:, 1] == known[:, 0]).sum()),
        "smallest": by_area[0] if by_area else None,  # [height, width]
        "median": by_area[len(by_area) // 2] if by_area else None,
        "largest": by_area[-1] if by_area else None,
    }


def _objects(sides: np.ndarray, ignored: int, objects_of: np.ndarray) -> dict[str, Any]:
    areas = sides.prod(1)
    owners = objects_of[objects_of > 0]
    return {
        "count": len(sides),
        "crowds_and_ignored": ignored,
        "per_image_with_objects": round(float(owners.mean()), 2) if len(owners) else None,
        "most_in_an_image": int(objects_of.max(initial=0)),
        "small": int((areas < SMALL).sum()),
        "medium": int(((areas >= SMALL) & (areas <= LARGE)).sum()),
        "large": int((areas > LARGE).sum()),
        "root_of_area_percentiles": _percentiles(np.sqrt(areas)),  # pixels
        "width_to_height_percentiles": _percentiles(sides[:, 0] / sides[:, 1]),
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    marks = (0, 5, 25, 50, 75, 95, 100)
    return {str(mark): round(float(v), 2) for mark, v in zip(marks, np.percentile(values, marks), strict=True)}


def _classes(columns: Columns, image: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    count = len(columns.category_ids)
    objects = np.bincount(label, minlength=count)
    images = np.bincount(np.unique(image * max(count, 1) + label) % max(count, 1), minlength=count)
    order = np.argsort(-objects, kind="stable")
    reached = np.cumsum(objects[order])
    described: dict[str, Any] = {
        "count": count,
        "without_objects": int((objects == 0).sum()),
        "with_few_objects": int(((objects > 0) & (objects < FEW)).sum()),
        "most_to_least": round(float(objects.max() / objects[objects > 0].min()), 1)
        if reached.size and reached[-1]
        else None,
        "classes_with_half_of_the_objects": int((reached < reached[-1] / 2).sum()) + 1 if len(label) else 0,
        "unused_ids": _gaps(columns.category_ids),
        "by_frequency": [
            {
                "id": columns.category_ids[k],
                "name": columns.class_names[k],
                "objects": int(objects[k]),
                "images": int(images[k]),
            }
            for k in order
        ],
    }
    if is_lvis(columns.images, columns.categories):
        described["lvis_frequencies"] = frequency_counts(columns)
    return described


def _gaps(ids: list[int]) -> list[list[int]]:
    """[first, last] of each stretch of integers between the least and the largest id that no category has."""
    known = np.unique(np.array(ids, np.int64))
    before = known[:-1][np.diff(known) > 1]
    after = known[1:][np.diff(known) > 1]
    return [[int(a) + 1, int(b) - 1] for a, b in zip(before, after, strict=True)]
