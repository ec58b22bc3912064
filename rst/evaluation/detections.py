"""Detections of any tool, checked column by column, as arrays.

A COCO result is {"image_id", "category_id", "bbox" [x, y, width, height] in pixels and / or "segmentation" (compressed
run lengths), "score"}.

    D  detections    N  images
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rst.coco.errors import DataError
from rst.coco.faults import short
from rst.coco.fields import load_json
from rst.coco.masks import mask_areas
from rst.coco.run_lengths import whole_masks
from rst.evaluation.image_names import ids_of_names
from rst.evaluation.protocol import Protocol
from rst.evaluation.truth import GroundTruth, Shapes

ASTRAY = 0.1  # a warning if more than this share of the boxes lies mostly outside the images
LEAST_LIMIT = 50  # detections per image; few detectors have a lower limit


@dataclass(frozen=True)
class Detections:
    """Detections that count, sorted by class, then image, then score from the highest down."""

    groups: np.ndarray  # (D,) int64: class index x N + image index
    ranks: np.ndarray  # (D,) int64 place in the group, from 0
    scores: np.ndarray  # (D,) float64 in [0, 1]
    shapes: Shapes  # D
    areas: np.ndarray  # (D,) float64, square pixels
    given: int  # detections in the list, also those that do not count
    images: int  # images with a detection in the list
    apparent_limit: int  # the detector's own limit per image, if it seems lower than the protocol's; else 0
    remark: str  # how images were found that are named by their files; empty if by ids
    warning: str  # why these are probably not detections of these images; empty if nothing says so


def read_detections(results: Any, truth: GroundTruth) -> Detections:
    """Check results against the ground truth and sort them.

    Args:
        results: COCO results, or a JSON file of them; may be empty. A mask may have a "mask_score" of its own.
        truth: what they are compared with; its `iou_type` says which of their shapes is read.

    Raises:
        DataError: a fault, by file, index, key and value.
    """
    source = "results"
    if isinstance(results, str | Path):
        source, results = str(results), load_json(Path(results))
    if not isinstance(results, Sequence) or isinstance(results, str | bytes):
        keys = f" with the keys {sorted(map(str, results))[:8]}" if isinstance(results, dict) else ""
        raise DataError(f"{source}: must be a list of results, is {type(results).__name__}{keys}")
    key = "bbox" if truth.iou_type == "bbox" else "segmentation"
    columns = {name: _column(results, name, source) for name in ("image_id", "category_id", "score", key)}
    image_ids, remark = ids_of_names(columns["image_id"], truth, source)
    image = _index_of(image_ids, truth.image_ids, "image_id", "image", source, truth.file)
    label = _index_of(columns["category_id"], truth.category_ids, "category_id", "category", source, truth.file)
    scores = _scores(columns["score"], source)
    if truth.iou_type == "segm":
        own = [i for i, result in enumerate(results) if "mask_score" in result]
        scores[own] = _scores([results[i]["mask_score"] for i in own], source, own)
    sizes = truth.sizes[image]
    if truth.iou_type == "bbox":
        shapes: Shapes = _boxes(columns[key], source)
        areas = shapes[:, 2] * shapes[:, 3]
        warning = _warning(shapes, sizes, source)
    else:
        shapes = _masks(columns[key], sizes, source)
        areas, warning = mask_areas(shapes), ""

    groups = label * len(truth.image_ids) + image
    kept = np.flatnonzero(_counts(truth, groups, image, scores, areas))
    order = kept[np.lexsort((-scores[kept], groups[kept]))]  # stable, as the published tools sort
    ranks = _ranks(groups[order])
    if not truth.protocol.limit_per_image:
        order, ranks = order[ranks < truth.protocol.limits[-1]], ranks[ranks < truth.protocol.limits[-1]]
    return Detections(
        groups=groups[order],
        ranks=ranks,
        scores=scores[order],
        shapes=shapes[order] if isinstance(shapes, np.ndarray) else [shapes[i] for i in order],
        areas=areas[order],
        given=len(results),
        images=len(np.unique(image)),
        apparent_limit=_apparent_limit(image, truth.protocol),
        remark=remark,
        warning=warning,
    )


def _counts(
    truth: GroundTruth, groups: np.ndarray, image: np.ndarray, scores: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """(D,) bool: within the limit per image, and of a class that the image is annotated for."""
    protocol: Protocol = truth.protocol
    counts = np.ones(len(groups), bool)
    if protocol.limit_per_image:
        order = np.lexsort((-scores, image))
        counts[order] = _ranks(image[order]) < protocol.limits[-1]
    if protocol.federated:
        counts &= np.isin(groups, truth.groups) | np.isin(groups, truth.negative)
        counts &= areas > 0  # as in LVIS's tool
    return counts


def _apparent_limit(image: np.ndarray, protocol: Protocol) -> int:
    """The largest number of detections of an image, if most images have it and the protocol counts more; else 0."""
    _, counts = np.unique(image, return_counts=True)
    most = int(counts.max(initial=0))
    limited = most >= LEAST_LIMIT and 2 * np.count_nonzero(counts == most) > len(counts) > 1
    return most if limited and protocol.limit_per_image and most < protocol.limits[-1] else 0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Place of each entry among its equals, which are neighbours."""
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else np.zeros(0, np.int64)
    return np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))


def _column(results: Sequence[Any], key: str, source: str) -> list[Any]:
    try:
        return [result[key] for result in results]
    except (KeyError, TypeError, IndexError):
        for i, result in enumerate(results):
            if not isinstance(result, dict):
                raise DataError(f"{source}[{i}] must be an object, is {short(result)}") from None
            if key not in result:
                hint = ". COCO results are wanted: rst predict --format coco" if "predictions" in result else ""
                keys = sorted(map(str, result))
                raise DataError(f"{source}[{i}] has no key '{key}'; its keys are {keys}{hint}") from None
        raise


def _index_of(values: Sequence[Any], known: np.ndarray, key: str, kind: str, source: str, file: Path) -> np.ndarray:
    """Index of each id in `known` (ascending)."""
    for i in _faults(values, lambda kinds: all(map(_is_integer_type, kinds)), _is_integer):
        raise DataError(f"{source}[{i}]: {key} must be an integer, is {short(values[i])}")
    try:
        ids = np.array(values, np.int64)
    except OverflowError:
        raise DataError(f"{source}: some {key} is beyond 64 bits") from None
    unknown = np.flatnonzero(~np.isin(ids, known))
    if len(unknown):
        span = f"{len(known)} ids, {known[0]} to {known[-1]}" if len(known) else "none"
        count = f"; {len(unknown)} of {len(ids)} results have such an id" if len(unknown) > 1 else ""
        hint = ". Are these detections of another data set?" if 2 * len(unknown) > len(ids) else ""
        if kind == "category" and len(known) and ids.min() == 0 < known[0]:
            hint = ". Are these labels, which count from 0? A result names the id of its category in the annotations"
        raise DataError(
            f"{source}[{unknown[0]}]: {key} {ids[unknown[0]]} is no {kind} of the ground truth, {file} "
            f"({span}){count}{hint}"
        )
    return np.searchsorted(known, ids)


def _scores(values: list[Any], source: str, of_masks: Sequence[int] | None = None) -> np.ndarray:
    """(D,) float64; those of masks with the places of their results."""

    def fault(i: int, said: str) -> DataError:
        name, place = ("score", i) if of_masks is None else ("mask_score", of_masks[i])
        return DataError(f"{source}[{place}]: {name} {said}{short(values[i])}")

    not_finite = "is not a finite number: "
    for i in _faults(values, lambda kinds: all(map(_is_number_type, kinds)), lambda v: _is_number_type(type(v))):
        raise fault(i, not_finite)
    try:
        scores = np.array(values, np.float64)
    except OverflowError:  # an integer beyond floats
        i = next(i for i, value in enumerate(values) if abs(value) > sys.float_info.max)
        raise fault(i, not_finite) from None
    for i in np.flatnonzero(~np.isfinite(scores)):
        raise fault(int(i), not_finite)
    for i in np.flatnonzero((scores < 0) | (scores > 1)):
        raise fault(int(i), "must lie in [0, 1], is ")
    return scores


def _boxes(values: list[Any], source: str) -> np.ndarray:
    """(D, 4) float64."""
    try:
        boxes = np.array(values)
    except ValueError:  # lists of different lengths
        boxes = np.zeros(0)
    if boxes.shape == (len(values), 4) and boxes.dtype.kind in "iuf":
        sound = np.isfinite(boxes).all(1) & (boxes[:, 2:] >= 0).all(1)
    else:
        sound = np.array([_is_box(value) for value in values], bool)
    for i in np.flatnonzero(~sound):
        raise DataError(
            f"{source}[{i}]: bbox must be four finite numbers [x, y, width, height], width and height not negative, "
            f"is {short(values[i])}"
        )
    return boxes.astype(np.float64).reshape(-1, 4)


def _is_box(value: Any) -> bool:
    """Whether a value is [x, y, width, height], finite and with no negative side."""
    try:
        box = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    if box.shape != (4,) or box.dtype.kind not in "iuf":
        return False
    return bool(np.isfinite(box).all() and (box[2:] >= 0).all())


def _warning(boxes: np.ndarray, sizes: np.ndarray, source: str) -> str:
    """A text if many boxes lie mostly outside their images: other data, corners for sides, or resized pixels."""
    limit = sizes[:, ::-1].astype(np.float64)
    inside = np.minimum(boxes[:, :2] + boxes[:, 2:], limit) - np.maximum(boxes[:, :2], 0.0)
    known = (sizes > 0).all(1)  # a file for boxes need not name the sizes
    astray = np.flatnonzero(known & (inside.clip(min=0).prod(1) < 0.5 * boxes[:, 2:].prod(1)))
    if len(astray) <= ASTRAY * len(boxes):
        return ""
    i = astray[0]
    return (
        f"{len(astray)} of {len(boxes)} boxes lie mostly outside their images (the first is {source}[{i}]: "
        f"{boxes[i].tolist()} in {sizes[i, 1]}x{sizes[i, 0]} pixels). Are these detections of this data set, as "
        f"[x, y, width, height] in pixels of the files?"
    )


def _masks(values: list[Any], sizes: np.ndarray, source: str) -> list[Any]:
    """Compressed run lengths, of the sizes of their images and whole."""
    texts: list[str] = []
    for i, (value, size) in enumerate(zip(values, sizes.tolist(), strict=True)):
        counts = value.get("counts") if isinstance(value, dict) else None
        if not isinstance(counts, str | bytes):
            kind = "polygons" if isinstance(value, list) else "uncompressed ones" if isinstance(counts, list) else ""
            raise DataError(
                f"{source}[{i}]: segmentation must be compressed run lengths{f', not {kind}' if kind else ''}, "
                f"is {short(value)}"
            )
        if value.get("size") != size:
            raise DataError(f"{source}[{i}]: run lengths have size {short(value.get('size'))}, the image {size}")
        texts.append(counts if isinstance(counts, str) else counts.decode("latin-1"))
    for i in np.flatnonzero(~whole_masks(texts, sizes.prod(1))):
        height, width = sizes[i]
        raise DataError(f"{source}[{i}]: run lengths do not add up to {height}x{width} pixels: {short(texts[i])}")
    return [{"size": size, "counts": text} for size, text in zip(sizes.tolist(), texts, strict=True)]


def _faults(
    values: Sequence[Any], right_types: Callable[[set[type]], bool], right: Callable[[Any], bool]
) -> Sequence[int]:
    """Indices of wrong values; values are looked at one by one only if some type is wrong."""
    return () if right_types(set(map(type, values))) else [i for i, value in enumerate(values) if not right(value)]


def _is_integer_type(kind: type) -> bool:
    return kind is int or issubclass(kind, np.integer)


def _is_integer(value: Any) -> bool:
    return _is_integer_type(type(value)) or (isinstance(value, float) and value.is_integer())


def _is_number_type(kind: type) -> bool:
    return kind in (int, float) or issubclass(kind, np.integer | np.floating)
