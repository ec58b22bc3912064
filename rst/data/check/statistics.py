"""What is in a data set: sizes, classes and their tail, and the positives to expect per pyramid level.

Letters: N pictures, K annotations, C classes.
"""

from typing import Any

import numpy as np

from rst.coco.columns import Columns
from rst.coco.lvis import is_lvis
from rst.data.check.levels import RATIOS, SAMPLE, SCALE, STRIDES, positives_per_level
from rst.data.check.lvis import frequency_counts
from rst.data.images import resized

SMALL, LARGE = 32**2, 96**2  # square pixels: COCO's bounds, by the area of the box
FEW = 10  # objects; a class with fewer is hardly learnt


def describe(
    columns: Columns,
    corners: np.ndarray,  # (K, 4) XYXY pixels, NaN where there is no usable box
    *,
    short_side: int = 800,
    max_side: int = 1333,
    anchor_scale: float = SCALE,
) -> dict[str, Any]:
    """JSON values; the level estimate is for pictures resized to `short_side` and `max_side`."""
    good = np.flatnonzero(np.isfinite(corners[:, 0]) & (columns.label >= 0))
    picture, label = columns.image[good], columns.label[good]
    sides = corners[good, 2:] - corners[good, :2]  # (k, 2) width and height
    objects_of = np.bincount(picture, minlength=len(columns.image_ids))
    return {
        "pictures": _pictures(columns.sizes, objects_of),
        "objects": _objects(sides, int(columns.ignored.sum()), objects_of),
        "classes": _classes(columns, picture, label),
        "levels": _levels(columns.sizes, picture, corners[good], short_side, max_side, anchor_scale),
    }


def _pictures(sizes: np.ndarray, objects_of: np.ndarray) -> dict[str, Any]:
    known = sizes[(sizes > 0).all(1)]
    by_area = known[np.argsort(known.astype(np.int64).prod(1), kind="stable")].tolist()
    return {
        "count": len(sizes),
        "with_objects": int((objects_of > 0).sum()),
        "without_objects": int((objects_of == 0).sum()),
        "wide": int((known[:, 1] >= known[:, 0]).sum()),
        "upright": int((known[:, 1] < known[:, 0]).sum()),
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
        "per_picture_with_objects": round(float(owners.mean()), 2) if len(owners) else None,
        "most_in_a_picture": int(objects_of.max(initial=0)),
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


def _classes(columns: Columns, picture: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    count = len(columns.category_ids)
    objects = np.bincount(label, minlength=count)
    pictures = np.bincount(np.unique(picture * max(count, 1) + label) % max(count, 1), minlength=count)
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
                "pictures": int(pictures[k]),
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


def _levels(
    sizes: np.ndarray, picture: np.ndarray, corners: np.ndarray, short_side: int, max_side: int, scale: float
) -> dict[str, Any]:
    before, which = np.unique(sizes, axis=0, return_inverse=True)  # a set has few sizes
    after = np.array([resized(h, w, short_side, max_side) if h and w else (1, 1) for h, w in before.tolist()])
    factor = after / np.maximum(before, 1)  # (sizes, 2) of height, of width
    owner = which.ravel()[picture]
    each, unreached = positives_per_level(corners * factor[owner][:, [1, 0, 1, 0]], after[owner], scale=scale)
    per_picture = each * len(corners) / max(len(sizes), 1)
    return {
        "short_side": short_side,
        "max_side": max_side,
        "anchor_scale": scale,
        "anchor_ratios": list(RATIOS),
        "objects_looked_at": min(len(corners), SAMPLE),
        "positive_anchors_per_object": round(float(each.sum()), 2),
        "share_of_objects_without": round(unreached, 4),
        "positive_anchors_per_picture": {
            f"P{k + 2}": {"stride": stride, "anchor_side": stride * scale, "positives": round(float(count), 2)}
            for k, (stride, count) in enumerate(zip(STRIDES, per_picture, strict=True))
        },
    }
