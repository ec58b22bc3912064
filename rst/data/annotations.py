"""A COCO annotation file, read and checked into arrays.

118,000 pictures with 860,000 objects (COCO train2017) are one pass over the JSON and a few sorts; whether the pictures
exist is seen from one listing per folder.

Letters: N pictures, K objects that can be trained on (neither crowds nor left out), sorted by picture.
"""

import os
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rst.data.errors import DataError, DataWarning
from rst.data.fields import integers, load_json, refuse_duplicates, section, short, strings
from rst.data.masks import check_segmentation

FaultyBoxes = Literal["refuse", "leave_out"]

MIN_SIDE = 1.0  # pixels; the published pipeline leaves out thinner boxes too
SHOWN = 5  # ids or names quoted in a message


@dataclass(frozen=True)
class Annotations:
    """The content of one annotation file."""

    image_ids: np.ndarray  # (N,) int64, in the order of the file
    sizes: np.ndarray  # (N, 2) int32, height and width in pixels
    file_names: list[str]  # N
    first: np.ndarray  # (N + 1,) int64: the objects of picture i are rows first[i] : first[i + 1]
    boxes: np.ndarray  # (K, 4) float32 XYXY, pixels, inside the picture
    labels: np.ndarray  # (K,) int32 in [0, C)
    annotation_ids: np.ndarray  # (K,) int64
    segmentations: bytes  # the K segmentations, pickled, end to end; empty unless masks were asked for
    segmentation_first: np.ndarray  # (K + 1,) int64 offsets into them
    category_ids: list[int]  # C, ascending; the index is the label
    class_names: list[str]  # C
    left_out: dict[str, list[int]]  # reason -> ids of the annotations left out for it

    def segmentation(self, row: int) -> Any:
        """Polygons or run lengths of one object, as in the file."""
        return pickle.loads(self.segmentations[self.segmentation_first[row] : self.segmentation_first[row + 1]])

    def without_empty(self) -> "Annotations":
        """The same without the pictures that have no object."""
        kept = np.flatnonzero(np.diff(self.first) > 0)
        return replace(
            self,
            image_ids=self.image_ids[kept],
            sizes=self.sizes[kept],
            file_names=[self.file_names[i] for i in kept],
            first=np.append(self.first[kept], self.first[-1]),  # empty pictures own no rows, so the rest stays in place
        )


def read_annotations(
    file: Path, images: Path, *, masks: bool = False, faulty_boxes: FaultyBoxes = "refuse"
) -> Annotations:
    """Read and check a COCO file.

    Boxes that reach out of their picture are clipped, crowds (`iscrowd`) left out silently. A box is faulty if it is
    less than a pixel wide or high, if less than a pixel of it is inside the picture, or, with `masks`, if none of its
    object's polygons has three points: `faulty_boxes` is "refuse" to refuse such a file, or "leave_out" to go on
    without them and report them in one `DataWarning`.

    Raises:
        DataError: malformed JSON (with line and column), a missing or wrong-typed key, a category or picture that does
            not exist, an id used twice, a picture missing from the folder, a number that is not finite; faulty boxes.
    """
    if faulty_boxes not in get_args(FaultyBoxes):
        raise ValueError(f"faulty_boxes must be 'refuse' or 'leave_out', got {faulty_boxes!r}")
    content = load_json(file)
    images_list, objects, categories = (section(content, key, file) for key in ("images", "annotations", "categories"))

    category_ids, class_names = _read_categories(categories, file)
    image_ids, sizes, file_names = _read_images(images_list, file)
    _check_pictures_exist(file_names, image_ids, file, images)

    ids = integers(objects, "id", "annotation", file)
    refuse_duplicates(ids, "annotation", file)
    picture = _positions(integers(objects, "image_id", "annotation", file), image_ids, ids, "image_id", file)
    sorted_categories = np.asarray(category_ids, np.int64)
    label = _positions(
        integers(objects, "category_id", "annotation", file), sorted_categories, ids, "category_id", file
    )
    boxes = _read_boxes(objects, ids, file)
    crowd = np.fromiter((bool(entry.get("iscrowd", 0)) for entry in objects), bool, len(objects))

    thin = (boxes[:, 2:] < MIN_SIDE).any(1)
    height_width = sizes[picture].astype(np.float64)
    limit = height_width[:, [1, 0, 1, 0]]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    corners = np.minimum(np.maximum(corners, 0.0), limit)
    outside = ~thin & ((corners[:, 2:] - corners[:, :2]) < MIN_SIDE).any(1)
    reasons = {
        "less than one pixel wide or high": thin & ~crowd,
        "less than one pixel inside the picture": outside & ~crowd,
    }
    kept = ~(thin | outside | crowd)

    pickled: dict[int, bytes] = {}
    if masks:
        pickled = _pickle_segmentations(objects, np.flatnonzero(kept).tolist(), sizes[picture], file)
        shapeless = kept.copy()
        shapeless[list(pickled)] = False
        reasons["no polygon of three points"] = shapeless
        kept &= ~shapeless

    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(picture[rows], kind="stable")]
    left_out = {reason: ids[mask].tolist() for reason, mask in reasons.items() if mask.any()}
    _report(left_out, file, faulty_boxes)
    blobs = [pickled[int(i)] for i in rows] if masks else []
    return Annotations(
        image_ids=image_ids,
        sizes=sizes,
        file_names=file_names,
        first=np.searchsorted(picture[rows], np.arange(len(image_ids) + 1)),
        boxes=corners[rows].astype(np.float32),
        labels=label[rows].astype(np.int32),
        annotation_ids=ids[rows],
        segmentations=b"".join(blobs),
        segmentation_first=np.cumsum([0, *map(len, blobs)]),
        category_ids=category_ids,
        class_names=class_names,
        left_out=left_out,
    )


def _read_categories(categories: list[dict[str, Any]], file: Path) -> tuple[list[int], list[str]]:
    if not categories:
        raise DataError(f"{file}: 'categories' is empty")
    ids = integers(categories, "id", "category", file)
    refuse_duplicates(ids, "category", file)
    names = strings(categories, "name", "category", file)
    order = np.argsort(ids)
    return ids[order].tolist(), [names[i] for i in order]


def _read_images(images: list[dict[str, Any]], file: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    ids = integers(images, "id", "image", file)
    refuse_duplicates(ids, "image", file)
    names = strings(images, "file_name", "image", file)
    sizes = np.stack([integers(images, key, "image", file) for key in ("height", "width")], 1)
    for i in np.flatnonzero((sizes < 1).any(1)):
        raise DataError(
            f"{file}: image {ids[i]} has height {sizes[i, 0]} and width {sizes[i, 1]}, both must be positive"
        )
    return ids, sizes.astype(np.int32), names


def _check_pictures_exist(names: list[str], ids: np.ndarray, file: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (should hold the pictures of {file})")
    listed: dict[str, set[str]] = {}
    missing = []
    for name, image_id in zip(names, ids, strict=True):
        parent, base = os.path.split(name)
        if parent not in listed:
            place = folder / parent
            listed[parent] = {entry.name for entry in os.scandir(place)} if place.is_dir() else set()
        if base not in listed[parent]:
            missing.append((name, image_id))
    if missing:
        name, image_id = missing[0]
        more = f" ({len(missing)} of {len(names)} pictures are missing)" if len(missing) > 1 else ""
        raise DataError(f"{folder / name}: no such picture; it is image {image_id} of {file}{more}")


def _read_boxes(objects: list[dict[str, Any]], ids: np.ndarray, file: Path) -> np.ndarray:
    """(K, 4) float64 XYWH as in the file."""
    for entry, i in zip(objects, ids, strict=True):
        box = entry.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= {int, float}):
            said = f"is {short(box)}" if "bbox" in entry else "is missing"
            raise DataError(f"{file}: annotation {i}: 'bbox' must be four numbers [x, y, width, height], {said}")
    try:
        boxes = np.array([entry["bbox"] for entry in objects], np.float64).reshape(-1, 4)
    except OverflowError:
        raise DataError(f"{file}: a number of some 'bbox' is too large") from None
    for i in np.flatnonzero(~np.isfinite(boxes).all(1)):
        raise DataError(f"{file}: annotation {ids[i]}: 'bbox' is not finite: {objects[i]['bbox']}")
    return boxes


def _pickle_segmentations(
    objects: list[dict[str, Any]], rows: list[int], sizes: np.ndarray, file: Path
) -> dict[int, bytes]:
    """The checked segmentations of these rows, those without a usable polygon left out."""
    pickled = {}
    for row in rows:
        where = f"{file}: annotation {objects[row]['id']}"
        if "segmentation" not in objects[row]:
            raise DataError(f"{where} has no key 'segmentation', which masks need")
        height, width = sizes[row].tolist()
        usable = check_segmentation(objects[row]["segmentation"], height, width, where)
        if usable is not None:
            pickled[row] = pickle.dumps(usable)
    return pickled


def _positions(values: np.ndarray, known: np.ndarray, ids: np.ndarray, key: str, file: Path) -> np.ndarray:
    """Where each value stands in `known` (unique, any order)."""
    if not len(values):
        return np.zeros(0, np.int64)
    order = np.argsort(known)
    place = np.searchsorted(known[order], values).clip(max=max(len(known) - 1, 0))
    for i in np.flatnonzero(known[order][place] != values) if len(known) else [0]:
        kind = "image" if key == "image_id" else "category"
        some = ", ".join(map(str, sorted(known.tolist())[:SHOWN])) + (", ..." if len(known) > SHOWN else "")
        raise DataError(
            f"{file}: annotation {ids[i]}: {key} {values[i]} is no {kind} of this file ({kind} ids: {some})"
        )
    return order[place]


def _report(left_out: dict[str, list[int]], file: Path, faulty_boxes: FaultyBoxes) -> None:
    if not left_out:
        return
    total = sum(map(len, left_out.values()))
    parts = "; ".join(f"{len(ids)} {reason} (annotation {_quote(ids)})" for reason, ids in left_out.items())
    if faulty_boxes == "refuse":
        raise DataError(
            f"{file}: {total} boxes cannot be trained on: {parts}. Mend the file, or go on without them: "
            f"--data.faulty_boxes leave_out"
        )
    warnings.warn(f"{file}: {total} boxes left out: {parts}", DataWarning, stacklevel=4)


def _quote(ids: Iterable[int]) -> str:
    ids = list(ids)
    return ", ".join(map(str, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
