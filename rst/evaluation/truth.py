"""The ground truth of an evaluation: an annotation file, checked, as arrays.

Unlike the reader for training, this one keeps crowds and boxes of any size, as the published tools do.

    N  images    C  classes    G  objects
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rst.coco.columns import SECTIONS, box_column, flag_column, image_name, reference_column
from rst.coco.errors import DataError
from rst.coco.faults import Sink, as_text, refuse, short
from rst.coco.fields import integer_column, load_json, report_duplicates, section_entries
from rst.coco.lvis import NEGATIVE, NOT_EXHAUSTIVE, category_lists, frequency_column, is_lvis
from rst.coco.masks import check_segmentations, compress, mask_areas
from rst.evaluation.protocol import PROTOCOLS, IouType, Protocol, ProtocolName

Shapes = np.ndarray | list[Any]  # (n, 4) float64 [x, y, width, height] in pixels, or n compressed run lengths


@dataclass(frozen=True)
class GroundTruth:
    """Objects sorted by class, then image, then place in the file."""

    file: Path
    protocol: Protocol
    iou_type: IouType
    image_ids: np.ndarray  # (N,) int64 ascending
    file_names: list[str]  # N, empty where there is none
    sizes: np.ndarray  # (N, 2) int64, height and width in pixels; 0 where a file for boxes does not say
    category_ids: np.ndarray  # (C,) int64 ascending
    class_names: list[str]  # C
    frequencies: list[str]  # C of "r", "c", "f"; empty for COCO
    groups: np.ndarray  # (G,) int64: class index x N + image index
    shapes: Shapes  # G
    areas: np.ndarray  # (G,) float64, square pixels, as the file says
    crowd: np.ndarray  # (G,) bool: ignored, and any number of detections may match it
    ignored: np.ndarray  # (G,) bool
    blank: np.ndarray  # ids of objects whose mask has no pixel; empty for boxes
    unnumbered: np.ndarray  # (G,) bool: id 0, which the published tools take for "no match"
    negative: np.ndarray  # int64 groups known to have no object; empty for COCO
    not_exhaustive: np.ndarray  # int64 groups where objects may lack; empty for COCO


def read_ground_truth(file: Path, iou_type: IouType, protocol: ProtocolName | Literal["auto"] = "auto") -> GroundTruth:
    """Read and check an annotation file.

    Areas and crowd flags are filled in where other tools leave them out. "auto" is LVIS where the file names each
    category's frequency and each image's absent categories.

    Raises:
        DataError: a file that cannot be read as COCO or, with "lvis", as LVIS; names the file, the entry and the key.
    """
    content, sink = load_json(file), refuse(file)
    images, objects, categories = (section_entries(content, key, sink) for key in SECTIONS)
    image_ids, ids, category_ids = (
        integer_column(entries, "id", kind, sink)[0]
        for entries, kind in ((images, "image"), (objects, "annotation"), (categories, "category"))
    )
    for values, kind in ((category_ids, "category"), (image_ids, "image"), (ids, "annotation")):
        report_duplicates(values, kind, sink)
    if not len(category_ids):
        raise DataError(f"{file}: 'categories' is empty")
    if len(ids) and not len(image_ids):
        raise DataError(f"{file}: 'images' is empty, but there are {len(ids)} annotations")
    if protocol == "auto":
        protocol = "lvis" if is_lvis(images, categories) else "coco"
    rules = PROTOCOLS[protocol]

    class_order, image_order = np.argsort(category_ids), np.argsort(image_ids)
    category_ids, image_ids = category_ids[class_order], image_ids[image_order]
    images = [images[i] for i in image_order]
    categories = [categories[i] for i in class_order]
    absent = 0 if iou_type == "bbox" else None  # masks have the sizes of their images, boxes need them for a hint alone
    sides = [integer_column(images, side, "image", sink, absent)[0] for side in ("height", "width")]
    sizes = np.stack(sides, 1).reshape(-1, 2)
    image, label = (
        reference_column(objects, key, known, np.ones(len(known), bool), sink)
        for key, known in (("image_id", image_ids), ("category_id", category_ids))
    )
    groups = label * len(image_ids) + image

    order = np.argsort(groups, kind="stable")
    objects = [objects[i] for i in order]
    shapes, areas, blank = _shapes(objects, sizes[image[order]], iou_type, file)
    crowd = flag_column(objects, "iscrowd", sink)
    if rules.federated:  # LVIS has no crowds, and its tool leaves objects without area out
        kept = np.flatnonzero(areas > 0)
        ignored = flag_column(objects, "ignore", sink)
        crowd = np.zeros_like(crowd)
    else:
        kept, ignored = np.arange(len(objects)), crowd
    negative, not_exhaustive = (
        [_listed_groups(images, key, category_ids, sink) for key in (NEGATIVE, NOT_EXHAUSTIVE)]
        if rules.federated
        else [np.zeros(0, np.int64)] * 2
    )
    return GroundTruth(
        file=file,
        protocol=rules,
        iou_type=iou_type,
        image_ids=image_ids,
        file_names=[name if isinstance(name, str) else "" for name in map(image_name, images)],
        sizes=sizes,
        category_ids=category_ids,
        class_names=[as_text(entry.get("name", entry["id"])) for entry in categories],
        frequencies=frequency_column(categories, sink) if rules.federated else [],
        groups=groups[order][kept],
        shapes=shapes[kept] if isinstance(shapes, np.ndarray) else [shapes[i] for i in kept],
        areas=areas[kept],
        crowd=crowd[kept],
        ignored=ignored[kept],
        blank=ids[order][kept][blank[kept] & ~ignored[kept]],
        unnumbered=ids[order][kept] == 0,
        negative=negative,
        not_exhaustive=not_exhaustive,
    )


def _shapes(
    objects: list[dict[str, Any]], sizes: np.ndarray, iou_type: IouType, file: Path
) -> tuple[Shapes, np.ndarray, np.ndarray]:
    """Shapes, areas (G,) in square pixels, the file's, else those of the shapes, and (G,) bool: a mask of no pixel."""
    if iou_type == "segm":
        shapes: Shapes = _masks(objects, sizes.tolist(), file)
        own = mask_areas(shapes)
    else:
        shapes = _boxes(objects, file)
        own = shapes[:, 2] * shapes[:, 3]
    areas = [entry.get("area", area) for entry, area in zip(objects, own.tolist(), strict=True)]
    for entry, area in zip(objects, areas, strict=True):
        if type(area) not in (int, float) or not 0 <= area <= sys.float_info.max:
            raise DataError(f"{file}: annotation {entry['id']}: 'area' must be a number of pixels, is {short(area)}")
    return shapes, np.array(areas, np.float64), (own == 0) & (iou_type == "segm")


def _boxes(objects: list[dict[str, Any]], file: Path) -> np.ndarray:
    """(G, 4) float64 XYWH; a width or height below 0 is refused, because it has no area to compare."""
    boxes = box_column(objects, refuse(file))
    for i in np.flatnonzero((boxes[:, 2:] < 0).any(1)):
        entry = objects[i]
        raise DataError(
            f"{file}: annotation {entry['id']}: 'bbox' has a negative width or height, is {short(entry['bbox'])}"
        )
    return boxes


def _masks(objects: list[dict[str, Any]], sizes: list[list[int]], file: Path) -> list[Any]:
    """Compressed run lengths; an empty mask where no polygon has three points."""

    def refuse_mask(index: int, text: str) -> None:
        raise DataError(f"{file}: annotation {objects[index]['id']}: {text}")

    bare = [i for i, entry in enumerate(objects) if not entry.get("segmentation")]
    absent = [i for i in bare if objects[i].get("segmentation") is None]
    if absent or (bare and len(bare) == len(objects)):
        which = f"the first is annotation {objects[(absent or bare)[0]]['id']}"
        raise DataError(
            f"{file}: {len(bare):,} of {len(objects):,} annotations have no mask ('segmentation'), {which}: "
            f"masks cannot be compared (--iou-type bbox compares boxes)"
        )
    usable = check_segmentations([entry["segmentation"] for entry in objects], sizes, refuse_mask)
    return [compress(value, *size) for value, size in zip(usable, sizes, strict=True)]


def _listed_groups(images: list[dict[str, Any]], key: str, category_ids: np.ndarray, sink: Sink) -> np.ndarray:
    """The groups that the images list under a key, ascending; categories that the file does not have are left out."""
    groups = [np.zeros(0, np.int64)]
    for index, listed in enumerate(category_lists(images, key, sink)):
        groups.append(np.flatnonzero(np.isin(category_ids, listed)) * len(images) + index)
    return np.sort(np.concatenate(groups))
