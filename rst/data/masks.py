"""COCO segmentations: polygons and run lengths, checked before pycocotools sees them.

pycocotools takes a list of four numbers for a box and reads broken run lengths without complaint, so what reaches it
has the right form.
"""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rst.data.errors import DataError


def check_segmentation(segmentation: Any, height: int, width: int, where: str) -> Any:
    """The usable part of a segmentation: polygons of at least three points, or run lengths; None if nothing is usable.

    Raises:
        DataError: a form that is neither. `where` begins the message.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not (
                isinstance(polygon, list) and all(type(x) in (int, float) for x in polygon) and len(polygon) % 2 == 0
            ):
                raise DataError(
                    f"{where}: a polygon of 'segmentation' must be a list of x, y pairs, is {polygon!r:.60}"
                )
            if not np.isfinite(polygon).all():
                raise DataError(f"{where}: a polygon of 'segmentation' is not finite: {polygon!r:.60}")
        return [polygon for polygon in segmentation if len(polygon) >= 6] or None
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise DataError(f"{where}: 'segmentation' must be polygons or run lengths, is {segmentation!r:.60}")
    if list(segmentation["size"]) != [height, width]:
        raise DataError(f"{where}: run lengths have size {segmentation['size']}, the picture {[height, width]}")
    counts = segmentation["counts"]
    if isinstance(counts, list) and sum(counts) != height * width:
        raise DataError(f"{where}: run lengths add up to {sum(counts)} pixels, the picture has {height * width}")
    return segmentation


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """(H, W) uint8 in {0, 1} of polygons or run lengths that `check_segmentation` returned."""
    try:
        runs: Any = segmentation  # compressed run lengths
        if isinstance(segmentation, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))  # type: ignore[arg-type]
        elif isinstance(segmentation["counts"], list):
            runs = coco_mask.frPyObjects(segmentation, height, width)
        return coco_mask.decode(runs)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: 'segmentation' cannot be decoded: {error}") from error


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths, as JSON values, of a mask (H, W) of booleans or {0, 1}."""
    run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in run_lengths["size"]], "counts": run_lengths["counts"].decode("ascii")}
