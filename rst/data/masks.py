"""COCO segmentations: polygons and run lengths, checked before pycocotools sees them.

pycocotools takes a list of four numbers for a box and reads broken run lengths without complaint, so what reaches it
has the right form.
"""

import math
import warnings
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
        for polygon in segmentation:  # set, map and sum: a million polygons go through here
            if not (isinstance(polygon, list) and set(map(type, polygon)) <= {int, float} and len(polygon) % 2 == 0):
                raise DataError(
                    f"{where}: a polygon of 'segmentation' must be a list of x, y pairs, is {polygon!r:.60}"
                )
            if not math.isfinite(sum(polygon)):
                raise DataError(f"{where}: a polygon of 'segmentation' is not finite: {polygon!r:.60}")
        return [polygon for polygon in segmentation if len(polygon) >= 6] or None
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        raise DataError(f"{where}: 'segmentation' must be polygons or run lengths, is {segmentation!r:.60}")
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise DataError(f"{where}: run lengths have size {size!r:.60}, the picture {[height, width]}")
    try:
        runs = _decompress(counts) if isinstance(counts, str) else counts
        right = all(type(run) is int and run >= 0 for run in runs) and sum(runs) == height * width
    except (TypeError, ValueError):
        right = False
    if not right:
        # pycocotools would leave the pixels beyond the last run as they were in memory
        raise DataError(f"{where}: run lengths do not add up to {height}x{width} pixels: {counts!r:.60}")
    return segmentation


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """(H, W) uint8 in {0, 1} of polygons or run lengths that `check_segmentation` returned."""
    try:
        runs: Any = segmentation  # compressed run lengths
        if isinstance(segmentation, list):
            polygons: Any = coco_mask.frPyObjects(segmentation, height, width)
            runs = coco_mask.merge(polygons)
        elif isinstance(segmentation["counts"], list):
            runs = coco_mask.frPyObjects(segmentation, height, width)
        with warnings.catch_warnings():
            # pycocotools 2.0.11 does not know the copy argument that numpy 2 hands to __array__
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            return coco_mask.decode(runs)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: 'segmentation' cannot be decoded: {error}") from error


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths, as JSON values, of a mask (H, W) of booleans or {0, 1}."""
    run_lengths: Any = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in run_lengths["size"]], "counts": run_lengths["counts"].decode("ascii")}


def _decompress(text: str) -> list[int]:
    """Run lengths of COCO's compressed form.

    A number is groups of five bits, the lowest first, each a character from "0" on; the sixth bit says that more
    follow, the fifth of the last group is the sign. From the fourth run on, a number is the difference to the run two
    before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign bit stands for -2^shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("run lengths end within a number")
    return runs
