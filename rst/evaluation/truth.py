"""The ground truth of an evaluation: an annotation file, checked, as arrays.

Unlike the reader for training this one keeps crowds and boxes of any size, because the published tools judge with them.

Letters: N pictures, K classes, G objects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from rst.coco.errors import DataError
from rst.coco.fields import integers, load_json, refuse_duplicates, section, short
from rst.coco.masks import check_segmentations
from rst.evaluation.protocol import FREQUENCIES, PROTOCOLS, IouType, Protocol, ProtocolName

Shapes = np.ndarray | list[Any]  # (n, 4) float64 [x, y, width, height] in pixels, or n compressed run lengths

FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class GroundTruth:
    """Objects sorted by class, then picture, then place in the file."""

    file: Path
    protocol: Protocol
    iou_type: IouType
    image_ids: np.ndarray  # (N,) int64 ascending
    sizes: np.ndarray  # (N, 2) int64, height and width in pixels
    category_ids: np.ndarray  # (K,) int64 ascending
    class_names: list[str]  # K
    frequencies: list[str]  # K of "r", "c", "f"; empty for COCO
    groups: np.ndarray  # (G,) int64: class index x N + picture index
    shapes: Shapes  # G
    areas: np.ndarray  # (G,) float64, square pixels, as the file says
    crowd: np.ndarray  # (G,) bool: ignored, and any number of detections may match it
    ignored: np.ndarray  # (G,) bool
    unnumbered: np.ndarray  # (G,) bool: id 0, which the published tools take for "no match"
    negative: np.ndarray  # int64 groups known to have no object; empty for COCO
    not_exhaustive: np.ndarray  # int64 groups where objects may lack; empty for COCO


def read_ground_truth(file: Path, iou_type: IouType, protocol: ProtocolName | Literal["auto"] = "auto") -> GroundTruth:
    """Read and check an annotation file.

    Areas and crowd flags are filled in where other tools leave them out. "auto" is LVIS where the file names each
    category's frequency and each picture's absent categories.

    Raises:
        DataError: a file that cannot be read as COCO or, with "lvis", as LVIS; names the file, the entry and the key.
    """
    content = load_json(file)
    images, objects, categories = (section(content, key, file) for key in ("images", "annotations", "categories"))
    category_ids = integers(categories, "id", "category", file)
    image_ids = integers(images, "id", "image", file)
    ids = integers(objects, "id", "annotation", file)
    for values, kind in ((category_ids, "category"), (image_ids, "image"), (ids, "annotation")):
        refuse_duplicates(values, kind, file)
    if not len(category_ids):
        raise DataError(f"{file}: 'categories' is empty")
    if protocol == "auto":
        protocol = "lvis" if _looks_federated(images, categories) else "coco"
    judged = PROTOCOLS[protocol]

    class_order, image_order = np.argsort(category_ids), np.argsort(image_ids)
    category_ids, image_ids = category_ids[class_order], image_ids[image_order]
    images = [images[i] for i in image_order]
    categories = [categories[i] for i in class_order]
    sizes = np.stack([integers(images, side, "image", file) for side in ("height", "width")], 1).reshape(-1, 2)
    image = _places(integers(objects, "image_id", "annotation", file), image_ids, ids, "image_id", file)
    label = _places(integers(objects, "category_id", "annotation", file), category_ids, ids, "category_id", file)
    groups = label * len(image_ids) + image

    order = np.argsort(groups, kind="stable")
    objects = [objects[i] for i in order]
    shapes, areas = _shapes(objects, sizes[image[order]], iou_type, file)
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in objects], bool)
    if judged.federated:  # LVIS has no crowds, and its tool leaves objects without area out
        kept = np.flatnonzero(areas > 0)
        ignored = np.array([bool(entry.get("ignore", 0)) for entry in objects], bool)
        crowd = np.zeros_like(crowd)
    else:
        kept, ignored = np.arange(len(objects)), crowd
    negative, not_exhaustive = (
        [_federated_groups(images, key, category_ids, file) for key in FEDERATED_KEYS]
        if judged.federated
        else [np.zeros(0, np.int64)] * 2
    )
    return GroundTruth(
        file=file,
        protocol=judged,
        iou_type=iou_type,
        image_ids=image_ids,
        sizes=sizes,
        category_ids=category_ids,
        class_names=[str(entry.get("name", entry["id"])) for entry in categories],
        frequencies=_frequencies(categories, file) if judged.federated else [],
        groups=groups[order][kept],
        shapes=shapes[kept] if isinstance(shapes, np.ndarray) else [shapes[i] for i in kept],
        areas=areas[kept],
        crowd=crowd[kept],
        ignored=ignored[kept],
        unnumbered=ids[order][kept] == 0,
        negative=negative,
        not_exhaustive=not_exhaustive,
    )


def is_box(value: Any) -> bool:
    """Whether a value is [x, y, width, height], finite and with no negative side."""
    try:
        box = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    if box.shape != (4,) or box.dtype.kind not in "iuf":
        return False
    return bool(np.isfinite(box).all() and (box[2:] >= 0).all())


def mask_areas(masks: list[Any]) -> np.ndarray:
    """(n,) float64 pixels of compressed run lengths."""
    area: Any = coco_mask.area
    parts = [area(masks[i : i + 255]) for i in range(0, len(masks), 255)]  # pycocotools 2.0.11 counts them in a byte
    return np.concatenate([np.zeros(0), *parts])


def _looks_federated(images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> bool:
    return all("frequency" in entry for entry in categories) and any(FEDERATED_KEYS[0] in entry for entry in images)


def _places(values: np.ndarray, known: np.ndarray, ids: np.ndarray, key: str, file: Path) -> np.ndarray:
    """Index of each value in `known` (ascending)."""
    places = np.searchsorted(known, values)
    for i in np.flatnonzero(~np.isin(values, known)):
        raise DataError(f"{file}: annotation {ids[i]}: {key} {values[i]} is not in this file")
    return places


def _shapes(
    objects: list[dict[str, Any]], sizes: np.ndarray, iou_type: IouType, file: Path
) -> tuple[Shapes, np.ndarray]:
    """Shapes, and areas (G,) in square pixels: the file's, else those of the shapes."""
    if iou_type == "segm":
        shapes: Shapes = _masks(objects, sizes.tolist(), file)
        own = mask_areas(shapes)
    else:
        shapes = _boxes(objects, file)
        own = shapes[:, 2] * shapes[:, 3]
    areas = [entry.get("area", area) for entry, area in zip(objects, own.tolist(), strict=True)]
    for entry, area in zip(objects, areas, strict=True):
        if type(area) not in (int, float) or not 0 <= area < float("inf"):
            raise DataError(f"{file}: annotation {entry['id']}: 'area' must be a number of pixels, is {short(area)}")
    return shapes, np.array(areas, np.float64)


def _boxes(objects: list[dict[str, Any]], file: Path) -> np.ndarray:
    for entry in objects:
        if not is_box(entry.get("bbox")):
            raise DataError(
                f"{file}: annotation {entry['id']}: 'bbox' must be four finite numbers [x, y, width, height], width "
                f"and height not negative, is {short(entry.get('bbox'))}"
            )
    return np.array([entry["bbox"] for entry in objects], np.float64).reshape(-1, 4)


def _masks(objects: list[dict[str, Any]], sizes: list[list[int]], file: Path) -> list[Any]:
    """Compressed run lengths; an empty mask where no polygon has three points."""

    def refuse(index: int, text: str) -> None:
        raise DataError(f"{file}: annotation {objects[index]['id']}: {text}")

    masks: list[Any] = check_segmentations([entry.get("segmentation") for entry in objects], sizes, refuse)
    for index, (usable, (height, width)) in enumerate(zip(masks, sizes, strict=True)):
        if usable is None:
            masks[index] = coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
        elif isinstance(usable, list):
            polygons: Any = coco_mask.frPyObjects(usable, height, width)
            masks[index] = coco_mask.merge(polygons)
        elif isinstance(usable["counts"], list):
            masks[index] = coco_mask.frPyObjects(usable, height, width)
    return masks


def _frequencies(categories: list[dict[str, Any]], file: Path) -> list[str]:
    for entry in categories:
        if entry.get("frequency") not in FREQUENCIES:
            raise DataError(
                f"{file}: category {entry['id']}: 'frequency' must be one of {', '.join(FREQUENCIES)} for LVIS's "
                f"protocol, is {short(entry.get('frequency'))}"
            )
    return [entry["frequency"] for entry in categories]


def _federated_groups(images: list[dict[str, Any]], key: str, category_ids: np.ndarray, file: Path) -> np.ndarray:
    """The groups that the pictures list under a key; categories that are not in the file are nobody's."""
    groups = []
    for place, entry in enumerate(images):
        if key not in entry:
            raise DataError(f"{file}: image {entry['id']} has no key '{key}', which LVIS's protocol needs")
        listed = entry[key]
        if not (isinstance(listed, list) and set(map(type, listed)) <= {int}):
            raise DataError(f"{file}: image {entry['id']}: '{key}' must be a list of category ids, is {short(listed)}")
        labels = np.flatnonzero(np.isin(category_ids, listed))
        groups.append(labels * len(images) + place)
    return np.sort(np.concatenate([np.zeros(0, np.int64), *groups]))
