"""COCO segmentations: polygons and run lengths, checked before pycocotools sees them.

pycocotools takes a list of four numbers for a box and reads broken run lengths without complaint. It therefore gets
checked segmentations only.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rst.coco.errors import DataError
from rst.coco.faults import short
from rst.coco.run_lengths import whole_masks

# Pixels from the corner of an image. pycocotools follows the edges of a polygon pixel by pixel, and with coordinates of
# millions it takes all memory, or crashes.
FAR = 100_000
MOST_PIXELS = 2**32 - 1  # pycocotools counts them in 32 bits


def check_segmentation(segmentation: Any, height: int, width: int, where: str) -> Any:
    """The usable part of a segmentation: polygons of at least three points, or run lengths; None if nothing is usable.

    Raises:
        DataError: a form that is neither. `where` begins the message.
    """

    def raise_fault(_: int, text: str) -> None:
        raise DataError(f"{where}: {text}")

    return check_segmentations([segmentation], [[height, width]], raise_fault)[0]


def check_segmentations(
    segmentations: Sequence[Any], sizes: Sequence[list[int]], report: Callable[[int, str], None]
) -> list[Any]:
    """The usable part of each segmentation, as `check_segmentation` has it; None too where `report` got a fault.

    Args:
        segmentations: as in the file.
        sizes: [height, width] of their images.
        report: takes the index of a segmentation in a wrong form, and what is wrong with it.
    """
    usable: list[Any] = [None] * len(segmentations)
    run_lengths = []
    for index, segmentation in enumerate(segmentations):
        height, width = sizes[index]
        if not (height > 0 < width and height * width <= MOST_PIXELS):
            fault = f"a mask of an image of {height}x{width} pixels (height x width) cannot be run lengths"
        elif isinstance(segmentation, list):
            fault = _polygon_fault(segmentation, max(FAR, 2 * max(height, width)))
            if not fault:
                usable[index] = [polygon for polygon in segmentation if len(polygon) >= 6] or None
        elif not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
            fault = f"'segmentation' must be polygons or run lengths, is {short(segmentation)}"
        elif segmentation["size"] != sizes[index]:
            fault = f"run lengths have size {short(segmentation['size'])}, the image {sizes[index]}"
        else:
            fault = ""
            run_lengths.append(index)
        if fault:
            report(index, fault)

    counts = [segmentations[index]["counts"] for index in run_lengths]
    pixels = np.array([sizes[index][0] * sizes[index][1] for index in run_lengths])
    for index, whole in zip(run_lengths, whole_masks(counts, pixels), strict=True):
        if whole:
            usable[index] = segmentations[index]
        else:
            height, width = sizes[index]
            text = f"run lengths do not add up to {height}x{width} pixels: {short(segmentations[index]['counts'])}"
            report(index, text)
    return usable


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """(H, W) uint8 in {0, 1} of polygons or run lengths that `check_segmentation` returned."""
    try:
        runs = compress(segmentation, height, width)
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


def compress(segmentation: Any, height: int, width: int) -> Any:
    """Compressed run lengths of what `check_segmentation` returned; those of an empty mask for None."""
    if segmentation is None:
        empty: Any = {"size": [height, width], "counts": [height * width]}
        return coco_mask.frPyObjects(empty, height, width)
    if isinstance(segmentation, list):
        polygons: Any = coco_mask.frPyObjects(segmentation, height, width)
        return coco_mask.merge(polygons)
    runs: Any = segmentation
    return coco_mask.frPyObjects(runs, height, width) if isinstance(runs["counts"], list) else runs


def mask_areas(masks: list[Any]) -> np.ndarray:
    """(n,) float64 pixels of compressed run lengths."""
    area: Any = coco_mask.area
    parts = [area(masks[i : i + 255]) for i in range(0, len(masks), 255)]  # pycocotools 2.0.11 counts them in a byte
    return np.concatenate([np.zeros(0), *parts])


def extents(segmentations: Sequence[Any], heights: Sequence[int]) -> np.ndarray:
    """(n, 4) float64 XYXY in pixels: the box of each usable segmentation, NaN where it marks nothing or is None."""
    boxes = np.full((len(segmentations), 4), np.nan)
    polygonal = [index for index, value in enumerate(segmentations) if isinstance(value, list)]
    if polygonal:
        lengths = np.array([sum(map(len, segmentations[index])) for index in polygonal], np.int64)
        polygons = chain.from_iterable(segmentations[index] for index in polygonal)
        flat = np.fromiter(chain.from_iterable(polygons), np.float64, int(lengths.sum()))
        first = (np.cumsum(lengths) - lengths) // 2
        for column, reduce in ((0, np.minimum), (1, np.minimum), (2, np.maximum), (3, np.maximum)):
            boxes[polygonal, column] = reduce.reduceat(flat[column % 2 :: 2], first)
    run_lengths = [index for index, value in enumerate(segmentations) if isinstance(value, dict)]
    if run_lengths:
        compressed: Any = [
            compress(segmentations[index], heights[index], segmentations[index]["size"][1]) for index in run_lengths
        ]
        found = np.asarray(coco_mask.toBbox(compressed), np.float64).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        found[(found[:, 2:] <= found[:, :2]).any(1)] = np.nan
        boxes[run_lengths] = found
    return boxes


def _polygon_fault(polygons: list[Any], far: int) -> str:
    """What is wrong with a list of polygons, "" if nothing; set, map and sum, because millions go through here."""
    for polygon in polygons:
        if not (isinstance(polygon, list) and set(map(type, polygon)) <= {int, float} and len(polygon) % 2 == 0):
            return _form_fault(polygons, polygon)
        try:
            finite = math.isfinite(sum(polygon))
        except OverflowError:  # an integer beyond floats
            finite = False
        if not finite:
            return f"a polygon of 'segmentation' is not finite: {short(polygon)}"
        if polygon and not (-far <= min(polygon) and max(polygon) <= far):
            return f"a polygon of 'segmentation' reaches more than {far:,} pixels away: {short(polygon)}"
    if len(polygons) >= 3 and set(map(len, polygons)) == {2}:  # as polygons they would be points, and mark nothing
        return _form_fault(polygons, polygons)
    return ""


def _form_fault(polygons: list[Any], polygon: Any) -> str:
    """What is wrong with the form of a polygon."""
    wanted = "a polygon of 'segmentation' must be a flat list [x0, y0, x1, y1, ...]"
    if all(type(number) in (int, float) for number in polygons):
        form = "a list of polygons [[x0, y0, x1, y1, ...]]"
        return f"'segmentation' must be {form}, is one polygon alone: {short(polygons)}"
    if isinstance(polygon, list) and polygon and all(isinstance(point, list | dict) for point in polygon):
        return f"{wanted}, is a list of points: {short(polygon)}"
    if isinstance(polygon, list) and len(polygon) % 2:
        return f"{wanted}, has {len(polygon)} numbers, an odd number: {short(polygon)}"
    return f"{wanted}, is {short(polygon)}"
