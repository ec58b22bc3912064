"""An annotation file as columns: every entry's fields, typed and checked, faults handed to a sink.

N  images    K  annotations    C  categories of the file; entries that are no objects are left out
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rst.coco.faults import Fault, Sink, entry_name, short
from rst.coco.fields import integer_column, report_duplicates, section_entries, string_column

SECTIONS = ("images", "annotations", "categories")
MIN_SIDE = 1.0  # pixels; the published pipeline leaves out thinner boxes too
SHOWN = 5  # ids or names quoted in a message

THIN = "less than one pixel wide or high"
OUTSIDE = "less than one pixel inside the image"


@dataclass(frozen=True)
class Columns:
    """An annotation file in the order of the file, with a marker value in place of each faulty one."""

    image_ids: np.ndarray  # (N,) int64
    sizes: np.ndarray  # (N, 2) int32, height and width in pixels; 0 where faulty
    file_names: list[str]  # N, below the folder of the images; empty where faulty
    category_ids: list[int]  # C, ascending; the index is the label
    class_names: list[str]  # C
    objects: list[dict[str, Any]]  # K
    ids: np.ndarray  # (K,) int64
    image: np.ndarray  # (K,) int64 index in [0, N); -1 where faulty
    label: np.ndarray  # (K,) int64 in [0, C); -1 where faulty
    boxes: np.ndarray  # (K, 4) float64 XYWH as in the file; NaN where faulty
    ignored: np.ndarray  # (K,) bool: crowds, and annotations marked `ignore`
    images: list[dict[str, Any]]  # N entries
    categories: list[dict[str, Any]]  # C entries, in the order of `category_ids`


def read_columns(content: Any, sink: Sink) -> Columns:
    """The columns of a file's content. A sink that returns gets all faults of single entries in one pass."""
    images, objects, categories = (section_entries(content, key, sink) for key in SECTIONS)
    for key in ("images", "categories"):
        if isinstance(content, dict) and content.get(key) == []:
            sink(Fault("malformed file", "file", None, f"'{key}' is empty", key))
    category_ids, right = integer_column(categories, "id", "category", sink)
    report_duplicates(category_ids[right], "category", sink)
    names = string_column(categories, "name", "category", sink)
    order = np.flatnonzero(right)[np.argsort(category_ids[right], kind="stable")]

    image_ids, image_right = integer_column(images, "id", "image", sink)
    report_duplicates(image_ids[image_right], "image", sink)
    ids, right = integer_column(objects, "id", "annotation", sink)
    report_duplicates(ids[right], "annotation", sink)
    return Columns(
        image_ids=image_ids,
        file_names=_image_names(images, sink),
        sizes=_sizes(images, image_ids, sink),
        category_ids=category_ids[order].tolist(),
        class_names=[names[i] for i in order],
        objects=objects,
        ids=ids,
        image=reference_column(objects, "image_id", image_ids, image_right, sink),
        label=reference_column(objects, "category_id", category_ids[order], np.ones(len(order), bool), sink),
        boxes=box_column(objects, sink),
        ignored=flag_column(objects, "iscrowd", sink) | flag_column(objects, "ignore", sink),
        images=images,
        categories=[categories[i] for i in order],
    )


def clip_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Corners (K, 4) XYXY of boxes (K, 4) XYWH, clipped to images of `sizes` (K, 2), and what is wrong with them.

    The faults are {THIN: (K,) bool, OUTSIDE: (K,) bool}.
    """
    thin = np.any(boxes[:, 2:] < MIN_SIDE, axis=1)
    limit = sizes.astype(np.float64)[:, [1, 0, 1, 0]]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    corners = np.minimum(np.maximum(corners, 0.0), limit)
    outside = np.any(corners[:, 2:] - corners[:, :2] < MIN_SIDE, axis=1)
    return corners, {THIN: np.asarray(thin), OUTSIDE: np.asarray(outside & ~thin)}


def image_name(entry: dict[str, Any]) -> Any:
    """`file_name`, or as in LVIS the last two parts of `coco_url`: train2017/000000000009.jpg; whatever type it has."""
    name, url = entry.get("file_name"), entry.get("coco_url")
    if "file_name" not in entry and isinstance(url, str):
        name = "/".join(urlsplit(url).path.split("/")[-2:]).lstrip("/")
    return name


def _image_names(images: list[dict[str, Any]], sink: Sink) -> list[str]:
    names = []
    for position, entry in enumerate(images):
        name = image_name(entry)
        if not (isinstance(name, str) and name):
            which = entry_name(entry, position, "image")
            text = f"{which}: 'file_name' must be a non-empty text, is {short(name)}"
            if "file_name" not in entry:
                text = f"{which} has no key 'file_name', and no 'coco_url' to stand for it"
            sink(Fault("malformed entry", "image", entry.get("id"), text, name))
            name = ""
        names.append(name)
    return names


def _sizes(images: list[dict[str, Any]], ids: np.ndarray, sink: Sink) -> np.ndarray:
    columns = [integer_column(images, key, "image", sink) for key in ("height", "width")]
    sizes = np.stack([values for values, _ in columns], 1).reshape(-1, 2)
    right = np.all([right for _, right in columns], axis=0)
    beyond = (sizes < 1) | (sizes > np.iinfo(np.int32).max)
    for i in np.flatnonzero(beyond.any(1) & right):
        height, width = sizes[i].tolist()
        text = f"image {ids[i]} has height {height} and width {width}, both must be positive"
        sink(Fault("malformed entry", "image", int(ids[i]), text, [height, width]))
    return np.where(beyond.any(1, keepdims=True) | ~right[:, None], 0, sizes).astype(np.int32)


def reference_column(
    objects: list[dict[str, Any]], key: str, known: np.ndarray, known_right: np.ndarray, sink: Sink
) -> np.ndarray:
    """(K,) int64: the index of each annotation's `key` in `known`, the first if there are two; -1 if there is none."""
    values, right = integer_column(objects, key, "annotation", sink)
    rows = np.flatnonzero(known_right)
    if not len(rows):  # already reported; not again for every annotation
        return np.full(len(values), -1)
    rows = rows[np.argsort(known[rows], kind="stable")]
    place = np.searchsorted(known[rows], values).clip(max=len(rows) - 1)
    found = known[rows][place] == values
    kind = key.removesuffix("_id")
    ids = np.unique(known[rows]).tolist()
    some = ", ".join(map(str, ids[:SHOWN])) + ", ..." * (len(ids) > SHOWN)
    for i in np.flatnonzero(~found & right):
        which = entry_name(objects[i], int(i), "annotation")
        text = f"{which}: {key} {values[i]} is no {kind} of this file ({kind} ids: {some})"
        sink(Fault(f"unknown {kind}", "annotation", objects[i].get("id"), text, int(values[i])))
    return np.where(found & right, rows[place], -1)


def box_column(objects: list[dict[str, Any]], sink: Sink) -> np.ndarray:
    """(K, 4) float64 XYWH as in the file, NaN where faulty."""
    faulty = (np.nan,) * 4
    rows: list[Any] = [entry.get("bbox") for entry in objects]
    of_four = set(map(type, rows)) <= {list} and set(map(len, rows)) <= {4}
    if not (of_four and set(map(type, chain.from_iterable(rows))) <= {int, float}):
        for position, (entry, box) in enumerate(zip(objects, rows, strict=True)):
            if isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= {int, float}:
                continue
            said = f"is {short(box)}" if "bbox" in entry else "is missing"
            name = entry_name(entry, position, "annotation")
            text = f"{name}: 'bbox' must be four numbers [x, y, width, height], {said}"
            sink(Fault("malformed box", "annotation", entry.get("id"), text, box))
            rows[position] = faulty
    try:
        boxes = np.array(rows, np.float64).reshape(-1, 4)
    except OverflowError:  # integers beyond floats
        boxes = np.array([[_float(value) for value in row] for row in rows])
    for i in np.flatnonzero(~np.isfinite(boxes).all(1)):
        if rows[i] is not faulty:
            name = entry_name(objects[i], int(i), "annotation")
            text = f"{name}: 'bbox' is not finite: {short(rows[i])}"
            sink(Fault("malformed box", "annotation", objects[i].get("id"), text, rows[i]))
            boxes[i] = np.nan
    return boxes


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf


def flag_column(objects: list[dict[str, Any]], key: str, sink: Sink) -> np.ndarray:
    """(K,) bool of a key that is 0 or 1, or false or true, and 0 where it is missing."""
    values = [entry.get(key) or 0 for entry in objects]
    flags = np.zeros(len(values), bool)
    for position, value in enumerate(values):
        if value == 1:
            flags[position] = True
        elif value != 0:
            name = entry_name(objects[position], position, "annotation")
            text = f"{name}: '{key}' must be 0 or 1, is {short(value)}"
            sink(Fault("malformed entry", "annotation", objects[position].get("id"), text, value))
    return flags
