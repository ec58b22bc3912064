"""Faults of boxes, areas and masks, by whole columns.

K  annotations, in the order of the file
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np

from rst.coco.columns import OUTSIDE, THIN, Columns, clip_boxes
from rst.coco.faults import Fault, Sink, entry_name, short
from rst.coco.masks import check_segmentations, extents

BORDER_SLACK = 1.0  # pixels that a box may reach beyond the border without a warning; more than rounding makes
AREA_SLACK = 1.05, 2.0  # an area may be this many times its box's, plus so many square pixels
# A side of a mask's own box may differ from the box's by so many pixels, or by this share of the box's longer side.
SIDE_SLACK = 2.0, 0.05
CHUNK = 20_000  # masks between two steps of the progress


def check_boxes(columns: Columns, sink: Sink) -> np.ndarray:
    """Report faulty boxes; the clipped corners (K, 4) XYXY, NaN where there is no usable box."""
    usable = _usable(columns)
    sizes = np.where(usable[:, None], columns.sizes[columns.image], 0)
    corners, faults = clip_boxes(columns.boxes, sizes)
    judged = usable & ~columns.ignored
    thin, outside = faults[THIN] & judged, faults[OUTSIDE] & judged
    x, y, width, height = columns.boxes.T
    beyond = np.max([-x, -y, x + width - sizes[:, 1], y + height - sizes[:, 0]], axis=0)
    beyond = judged & ~thin & ~outside & (beyond > BORDER_SLACK)
    for mask, kind, text in (
        (thin, "box without area", f"is {THIN}: {{box}}"),
        (outside, "box outside the image", f"is {OUTSIDE} of {{size}} pixels: {{box}}"),
        (beyond, "box beyond the border", "reaches beyond the image of {size} pixels and is clipped: {box}"),
    ):
        for i in np.flatnonzero(mask):
            entry, (high, wide) = columns.objects[i], sizes[i].tolist()
            negative = kind == "box without area" and min(columns.boxes[i, 2:]) < 0  # the evaluation refuses these
            said = text.format(box=entry["bbox"], size=f"{wide}x{high}")
            message = f"{entry_name(entry, int(i), 'annotation')}: 'bbox' {said}"
            sink(Fault("malformed box" if negative else kind, "annotation", entry.get("id"), message, entry["bbox"]))
    return np.where((judged & ~thin & ~outside)[:, None], corners, np.nan)


def check_repeats(columns: Columns, sink: Sink) -> None:
    """Report annotations that repeat image, category and box of one before them."""
    rows = np.flatnonzero(_usable(columns) & ~columns.ignored & (columns.label >= 0))
    boxes = np.ascontiguousarray(columns.boxes[rows] + 0.0)  # -0.0 becomes 0.0
    keys = np.column_stack([columns.image[rows], columns.label[rows], boxes.view(np.int64)]).astype(np.uint64)
    digest = np.zeros(len(rows), np.uint64)
    for column in keys.T:  # a hash of each row; equal rows are neighbours in its order
        digest = (digest ^ column) * np.uint64(0x9E3779B97F4A7C15)
        digest ^= digest >> np.uint64(29)
    order = np.argsort(digest, kind="stable")
    same = (keys[order[1:]] == keys[order[:-1]]).all(1)
    for place in np.flatnonzero(same):
        first, second = (columns.objects[rows[order[k]]] for k in (place, place + 1))
        name = entry_name(second, int(rows[order[place + 1]]), "annotation")
        text = f"{name} repeats annotation {short(first.get('id'))}: same image, category and 'bbox' {second['bbox']}"
        sink(Fault("object annotated twice", "annotation", second.get("id"), text, first.get("id")))


def check_areas(columns: Columns, sink: Sink) -> None:
    """Report an `area` that is no number of pixels, or larger than its box; there need not be one."""
    values = [entry.get("area", 0) for entry in columns.objects]
    numbers = {int, float}
    wrong = [i for i, value in enumerate(values) if type(value) not in numbers or not 0 <= value <= sys.float_info.max]
    for i in wrong:
        name = entry_name(columns.objects[i], i, "annotation")
        text = f"{name}: 'area' must be a number of pixels, is {short(values[i])}"
        sink(Fault("malformed area", "annotation", columns.objects[i].get("id"), text, values[i]))
        values[i] = 0
    areas = np.array(values, np.float64)
    factor, offset = AREA_SLACK
    limit = columns.boxes[:, 2:].prod(1)
    for i in np.flatnonzero((areas > factor * limit + offset) & (limit > 0) & ~columns.ignored):
        entry = columns.objects[i]
        name = entry_name(entry, int(i), "annotation")
        text = f"{name}: 'area' {entry['area']} is larger than its 'bbox' {entry['bbox']}"
        sink(Fault("area larger than the box", "annotation", entry.get("id"), text, entry["area"]))


def check_masks(
    columns: Columns,
    corners: np.ndarray,  # (K, 4) from `check_boxes`
    required: bool,
    sink: Sink,
    advance: Callable[[int], object],
) -> None:
    """Report missing and malformed masks, and those whose own box is not the box of the annotation.

    A mask may be missing if masks are not `required` and no annotation has one. `advance` is called with the number of
    annotations done since the last call.
    """
    given = (entry.get("segmentation") is not None for entry in columns.objects)
    has_mask = np.fromiter(given, bool, len(columns.objects))
    expected = required or bool(has_mask[~columns.ignored].any())
    for i in np.flatnonzero(~has_mask & ~columns.ignored) if expected else ():
        entry = columns.objects[i]
        name = entry_name(entry, int(i), "annotation")
        said = "which masks need" if required else "which others have"
        sink(Fault("missing mask", "annotation", entry.get("id"), f"{name} has no key 'segmentation', {said}"))
    rows = np.flatnonzero(has_mask & (columns.image >= 0) & (columns.sizes[columns.image] > 0).all(1))
    advance(len(columns.objects) - len(rows))
    for chunk in np.split(rows, range(CHUNK, len(rows), CHUNK)):
        for fault in _mask_faults(columns, corners, chunk):
            sink(fault)
        advance(len(chunk))


def _mask_faults(columns: Columns, corners: np.ndarray, rows: np.ndarray) -> Iterator[Fault]:
    entries = [columns.objects[i] for i in rows]
    segmentations = [entry["segmentation"] for entry in entries]
    sizes = columns.sizes[columns.image[rows]]
    ignored = columns.ignored[rows]
    malformed: dict[int, str] = {}
    usable = check_segmentations(segmentations, sizes.tolist(), malformed.__setitem__)

    def fault(k: int, kind: str, said: str) -> Fault:
        name = entry_name(entries[k], int(rows[k]), "annotation")
        return Fault(kind, "annotation", entries[k].get("id"), f"{name}: {said}", short(segmentations[k]))

    for k, said in malformed.items():
        yield fault(k, "malformed mask of a crowd" if ignored[k] else "malformed mask", said)
    own = extents(usable, sizes[:, 0].tolist())  # (k, 4)
    for k, value in enumerate(usable):
        if ignored[k] or k in malformed:
            continue
        if value is None:
            yield fault(k, "mask without area", "none of the polygons of 'segmentation' has three points")
        elif np.isnan(own[k, 0]):
            yield fault(k, "mask without pixels", "'segmentation' marks no pixel")
    clipped = np.minimum(np.maximum(own, 0.0), sizes[:, [1, 0, 1, 0]])
    theirs = corners[rows]
    pixels, share = SIDE_SLACK
    slack = np.maximum(pixels, share * (theirs[:, 2:] - theirs[:, :2]).max(1, initial=0.0))
    apart = np.abs(clipped - theirs).max(1, initial=0.0)
    for k in np.flatnonzero(apart > slack):  # NaN, where there is no box or no mask, is not
        mask_box = [round(float(v), 2) for v in (*clipped[k, :2], *(clipped[k, 2:] - clipped[k, :2]))]
        text = f"'bbox' is {entries[k]['bbox']}, but the mask's is {mask_box}: up to {apart[k]:.0f} pixels apart"
        name = entry_name(entries[k], int(rows[k]), "annotation")
        yield Fault("mask and box disagree", "annotation", entries[k].get("id"), f"{name}: {text}", mask_box)


def _usable(columns: Columns) -> np.ndarray:
    """(K,) bool: annotations with an image of known size and four finite numbers."""
    known = (columns.image >= 0) & (columns.sizes[columns.image] > 0).all(1)
    return known & np.isfinite(columns.boxes).all(1)
