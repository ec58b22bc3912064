"""A COCO annotation file, read and checked into arrays.

118,000 images with 860,000 objects (COCO train2017) take one pass over the JSON and a few sorts. One listing per
folder shows which image files exist.

    N  images    K  objects to train on (neither crowds nor left out), sorted by image    C  categories
"""

import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rst.coco.columns import SHOWN, Columns, clip_boxes, read_columns
from rst.coco.errors import DataError, DataWarning
from rst.coco.faults import refuse
from rst.coco.fields import load_json
from rst.coco.masks import check_segmentations
from rst.data.image_files import FileNames, hint_where, locate_images

FaultyBoxes = Literal["refuse", "leave_out"]


@dataclass(frozen=True)
class Annotations:
    """The content of one annotation file."""

    image_ids: np.ndarray  # (N,) int64, in the order of the file
    sizes: np.ndarray  # (N, 2) int32, height and width in pixels
    file_names: list[str]  # N
    first: np.ndarray  # (N + 1,) int64: the objects of image i are rows first[i] : first[i + 1]
    boxes: np.ndarray  # (K, 4) float32 XYXY, pixels, inside the image
    labels: np.ndarray  # (K,) int32 in [0, C)
    annotation_ids: np.ndarray  # (K,) int64
    segmentations: bytes  # the K segmentations, pickled, end to end; empty unless masks were asked for
    segmentation_first: np.ndarray  # (K + 1,) int64 offsets into them
    category_ids: list[int]  # C, ascending; the index is the label
    class_names: list[str]  # C
    left_out: dict[str, list[int]]  # reason -> ids of the annotations left out for it
    annotations: int  # in the file
    ignored: int  # of them crowds, or marked `ignore`

    def segmentation(self, row: int) -> Any:
        """Polygons or run lengths of one object, as in the file."""
        return pickle.loads(self.segmentations[self.segmentation_first[row] : self.segmentation_first[row + 1]])

    def without_empty(self) -> "Annotations":
        """The same without the images that have no object."""
        kept = np.flatnonzero(np.diff(self.first) > 0)
        return replace(
            self,
            image_ids=self.image_ids[kept],
            sizes=self.sizes[kept],
            file_names=[self.file_names[i] for i in kept],
            first=np.append(self.first[kept], self.first[-1]),  # empty images own no rows, so the rest stays in place
        )


def read_annotations(
    file: Path,
    images: Path,
    *,
    masks: bool = False,
    faulty_boxes: FaultyBoxes = "refuse",
    file_names: FileNames = "exact",
) -> Annotations:
    """Read and check a COCO or LVIS file.

    An image without `file_name` is found by its `coco_url`, as in LVIS: at train2017/000000000009.jpg below `images`.
    Boxes that reach out of their image are clipped. Crowds (`iscrowd`) and annotations marked `ignore` are left out
    silently: as in the published detectors, their area is background.

    A box is faulty if it is less than a pixel wide or high, if less than a pixel of it is inside the image, or, with
    `masks`, if none of its object's polygons has three points: `faulty_boxes` is "refuse" to refuse such a file, or
    "leave_out" to go on without them and report them in one `DataWarning`.

    With `file_names` "forgiving", images whose name differs from their file's only in how it is written are found too,
    and told in one `DataWarning`; see `rst.data.image_files`.

    Raises:
        DataError: malformed JSON (with line and column), a missing or wrong-typed key, a category or image that does
            not exist, an id used twice, an image missing from the folder, a number that is not finite; faulty boxes.
    """
    if faulty_boxes not in get_args(FaultyBoxes):
        raise ValueError(f"faulty_boxes must be 'refuse' or 'leave_out', got {faulty_boxes!r}")
    columns = read_columns(load_json(file), refuse(file))
    names = _find_images(columns, file, images, file_names)
    ids, image, objects = columns.ids, columns.image, columns.objects
    corners, faults = clip_boxes(columns.boxes, columns.sizes[image])
    reasons = {reason: mask & ~columns.ignored for reason, mask in faults.items()}
    kept = ~np.any([columns.ignored, *faults.values()], axis=0)

    pickled: dict[int, bytes] = {}
    if masks:
        pickled = _pickle_segmentations(objects, np.flatnonzero(kept).tolist(), columns.sizes[image], file)
        shapeless = kept.copy()
        shapeless[list(pickled)] = False
        reasons["no polygon of three points"] = shapeless
        kept &= ~shapeless

    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(image[rows], kind="stable")]
    left_out = {reason: ids[mask].tolist() for reason, mask in reasons.items() if mask.any()}
    _report(left_out, file, faulty_boxes)
    blobs = [pickled[int(i)] for i in rows] if masks else []
    return Annotations(
        image_ids=columns.image_ids,
        sizes=columns.sizes,
        file_names=names,
        first=np.searchsorted(image[rows], np.arange(len(columns.image_ids) + 1)),
        boxes=corners[rows].astype(np.float32),
        labels=columns.label[rows].astype(np.int32),
        annotation_ids=ids[rows],
        segmentations=b"".join(blobs),
        segmentation_first=np.cumsum([0, *map(len, blobs)]),
        category_ids=columns.category_ids,
        class_names=columns.class_names,
        left_out=left_out,
        annotations=len(objects),
        ignored=int(columns.ignored.sum()),
    )


def _find_images(columns: Columns, file: Path, folder: Path, file_names: FileNames) -> list[str]:
    """The names under which the image files lie below the folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (should hold the images of {file})")
    located = locate_images(columns.file_names, folder, file_names)
    missing, names = located.absent, columns.file_names
    if missing:
        name, image_id = names[missing[0]], columns.image_ids[missing[0]]
        more = f" ({len(missing)} of {len(names)} images are missing)" if len(missing) > 1 else ""
        hint = located.offer() + hint_where(name, folder)
        raise DataError(f"{folder / name}: no such image file; it is image {image_id} of {file}{more}{hint}")
    if remark := located.applied():
        warnings.warn(f"{file}: {remark}", DataWarning, stacklevel=4)
    return located.names


def _pickle_segmentations(
    objects: list[dict[str, Any]], rows: list[int], sizes: np.ndarray, file: Path
) -> dict[int, bytes]:
    """The checked segmentations of these rows, those without a usable polygon left out."""
    bare = [row for row in rows if objects[row].get("segmentation") in (None, [])]
    absent = [row for row in bare if objects[row].get("segmentation") != []]
    if absent or (bare and len(bare) == len(rows)):
        entry = objects[(absent or bare)[0]]
        said = "has an empty 'segmentation'" if "segmentation" in entry else "has no key 'segmentation'"
        first = f"annotation {entry['id']} {said}, which masks need"
        if len(bare) > 1:
            first += f"; {len(bare):,} of {len(rows):,} annotations have no mask"
        raise DataError(f"{file}: {first}")

    def raise_fault(index: int, text: str) -> None:
        raise DataError(f"{file}: annotation {objects[rows[index]]['id']}: {text}")

    segmentations = [objects[row]["segmentation"] for row in rows]
    usable = check_segmentations(segmentations, sizes[rows].tolist(), raise_fault)
    return {row: pickle.dumps(value) for row, value in zip(rows, usable, strict=True) if value is not None}


def _report(left_out: dict[str, list[int]], file: Path, faulty_boxes: FaultyBoxes) -> None:
    if not left_out:
        return
    total = sum(map(len, left_out.values()))
    parts = "; ".join(f"{len(ids)} {reason} (annotation {_quote(ids)})" for reason, ids in left_out.items())
    if faulty_boxes == "refuse":
        raise DataError(
            f"{file}: {total} boxes cannot be trained on: {parts}. Correct the file, or go on without them: "
            f"--data.faulty_boxes leave_out"
        )
    warnings.warn(f"{file}: {total} boxes left out: {parts}", DataWarning, stacklevel=4)


def _quote(ids: Iterable[int]) -> str:
    ids = list(ids)
    return ", ".join(map(str, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
