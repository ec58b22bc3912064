"""The check of a data set: one pass over the annotations, then each image file."""

import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from rst.coco.columns import Columns, read_columns
from rst.coco.errors import DataError
from rst.coco.faults import Fault, entry_name, refuse
from rst.coco.fields import integer_column, load_json, section_entries, string_column, without_collector
from rst.coco.lvis import is_lvis
from rst.data.check.lvis import check_lvis
from rst.data.check.objects import check_areas, check_boxes, check_masks, check_repeats
from rst.data.check.report import Report
from rst.data.check.statistics import describe
from rst.data.images import ImageFault, absent_images, hint_where, inspect_image

# Makes a context manager around a step of the check, from its name and the number of its parts. It gives a function to
# call with the number of parts done since the last call.
Track = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]

# Headers are read by Python code, one thread at a time: a second thread hides the waiting for the disk, more are slower
# (measured). Decoding is C code: one thread per core.
HEADER_THREADS, HEADERS_AT_ONCE = 2, 64
SAMPLE = 200  # images on which positives are counted


def check_annotations(
    annotations: Path,
    images: Path,
    *,
    classes_of: Path | None = None,
    masks: bool = False,
    leave_out: bool = False,
    min_box_side: float = 1.0,
    headers: bool = True,
    decode: bool = False,
    model: Any = None,
    transforms: Callable[..., Any] | None = None,
    track: Track | None = None,
) -> Report:
    """Everything that is wrong with a COCO or LVIS data set.

    Args:
        annotations: COCO or LVIS file.
        images: folder of its images.
        classes_of: another annotation file that must have the same categories, as training and validation must.
        masks: judge for a training with masks.
        leave_out: judge for a training with `faulty_boxes: leave_out`.
        min_box_side: judge for a training with this setting, in pixels.
        headers: look at the header of each image, for its size.
        decode: decode each image whole.
        model, transforms: a detector that can count its positives, and the training's transforms; see
            `rst.data.check.positives`. Without them positives are not counted.
        track: shows the progress.

    Raises:
        DataError: `annotations` or `images` does not exist; `classes_of` cannot be read.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder (should hold the images of {annotations})")
    if not annotations.is_file():
        raise DataError(f"{annotations}: " + ("is a folder, not a file" if annotations.is_dir() else "no such file"))
    track = track or (lambda name, total: nullcontext(lambda done: None))
    report = Report(annotations, images, masks=masks, leave_out=leave_out)
    with without_collector():
        megabytes = annotations.stat().st_size / 2**20
        with track(f"reading {megabytes:.0f} MiB of JSON", 0):
            try:
                content = load_json(annotations)
            except DataError as error:
                text = str(error).removeprefix(f"{annotations}: ")
                report.add(Fault("malformed file", "file", None, text))
                return report
        columns = read_columns(content, report.add)
        if not (columns.images and columns.categories):
            return report  # or each annotation would be reported for this alone
        _check_entries(columns, report)
        if classes_of is not None:
            _check_classes(columns, classes_of, report)
        corners = np.full((len(columns.objects), 4), np.nan)
        if columns.objects:
            corners = check_boxes(columns, report.add)
            check_repeats(columns, report.add)
            check_areas(columns, report.add)
            with track("masks", len(columns.objects)) as advance:
                check_masks(columns, corners, masks, report.add, advance)
        _check_learnable(columns, corners, min_box_side, report)
        if is_lvis(columns.images, columns.categories):
            check_lvis(columns, report.add)
        _check_images(columns, report, track, headers or decode, decode)
        report.statistics = describe(columns, corners)
        if model is not None and transforms is not None:
            from rst.data.check.positives import count_positives  # torch takes seconds to import

            with track("positives", min(SAMPLE, report.statistics["images"]["with_objects"])) as advance:
                report.statistics["positives"] = count_positives(
                    model, transforms, columns, corners, advance, sample=SAMPLE
                )
        report.notes += _notes(columns, report)
    return report


def _check_entries(columns: Columns, report: Report) -> None:
    """Names that occur twice, annotations that are not learnt, and the id that the protocol takes for none."""
    for kind, subject, entries, names in (
        ("image listed twice", "image", columns.images, columns.file_names),
        ("class name used twice", "category", columns.categories, columns.class_names),
    ):
        first: dict[str, Any] = {}
        for position, (entry, name) in enumerate(zip(entries, names, strict=True)):
            if name and name in first:
                text = f"{entry_name(entry, position, subject)} has the name {name!r} of {subject} {first[name]}"
                report.add(Fault(kind, subject, entry.get("id"), text, name))
            first.setdefault(name, entry.get("id"))
    total = len(columns.objects)
    for kind, key, said in (
        ("crowds", "iscrowd", "crowds: not learnt, and background"),
        ("marked to be ignored", "ignore", "marked 'ignore': not learnt, and background"),
    ):
        count = sum(entry.get(key) in (1, True) for entry in columns.objects)
        if count and not columns.ignored.all():  # all of them are an error of its own
            text = f"{count:,} of {total:,} annotations are {said}"
            report.add(Fault(kind, "file", None, text, count))
    for i in np.flatnonzero(columns.ids == 0):
        entry = columns.objects[i]
        if type(entry.get("id")) in (int, float) and not columns.ignored[i]:
            text = (
                "annotation 0: its object always counts as missed in COCO's evaluation, which takes 0 for 'no match'; "
                "number the annotations from 1"
            )
            report.add(Fault("annotation id 0", "annotation", entry["id"], text, 0))


def _check_learnable(columns: Columns, corners: np.ndarray, min_box_side: float, report: Report) -> None:
    """A file without any object to learn from; `corners` are NaN where a box cannot be used."""
    usable = ~columns.ignored & np.isfinite(corners[:, 0]) & (columns.label >= 0)
    small = usable & (corners[:, 2:] - corners[:, :2] < min_box_side).any(1)
    if (usable & ~small).any():
        return
    total, ignored = len(columns.objects), int(columns.ignored.sum())
    text = f"there is no annotation to learn from: of {total:,}, {ignored:,} are crowds or marked 'ignore'"
    faulty = total - ignored - int(usable.sum())
    text += f", {faulty:,} are faulty" if faulty else ""
    text += f", {int(small.sum()):,} smaller than data.min_box_side {min_box_side:g}" if small.any() else ""
    report.add(Fault("no objects", "file", None, text, total))


def _check_classes(columns: Columns, file: Path, report: Report) -> None:
    entries = section_entries(load_json(file), "categories", refuse(file))
    ids, _ = integer_column(entries, "id", "category", refuse(file))
    names = string_column(entries, "name", "category", refuse(file))
    theirs = dict(zip(ids.tolist(), names, strict=True))
    ours = dict(zip(columns.category_ids, columns.class_names, strict=True))
    for category_id in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(category_id), theirs.get(category_id)
        if here != there:
            said = (
                f"is {name!r} in {place}" if name else f"is not in {place}"
                for name, place in ((here, "this file"), (there, file))
            )
            text = f"category {category_id} {' but '.join(said)}"
            report.add(Fault("other classes", "category", category_id, text, there))


def _check_images(columns: Columns, report: Report, track: Track, headers: bool, decode: bool) -> None:
    folder, names = report.images, columns.file_names
    named = [i for i, name in enumerate(names) if name]
    missing, others = absent_images([names[i] for i in named], folder)
    if others:
        files = "1 file has" if others == 1 else f"{others:,} files have"
        report.notes.append(f"{files} no entry in the annotations, in the folders of the images")
    absent = {named[k] for k in missing}
    hint = hint_where(names[min(absent)], folder) if absent else ""
    for i in sorted(absent):
        text = f"{entry_name(columns.images[i], i, 'image')}: no such image file: {folder / names[i]}{hint}"
        report.add(Fault("missing image file", "image", columns.images[i].get("id"), text, names[i]), folder / names[i])
    present = [i for i in named if i not in absent and (columns.sizes[i] > 0).all()]
    if not headers:
        return

    def look(part: list[int]) -> list[ImageFault | None]:
        places = ((folder / names[i], *columns.sizes[i].tolist()) for i in part)
        return [inspect_image(path, height, width, decode) for path, height, width in places]

    step, threads = (1, os.cpu_count() or 1) if decode else (HEADERS_AT_ONCE, HEADER_THREADS)
    parts = [present[start : start + step] for start in range(0, len(present), step)]
    with (
        track("images decoded" if decode else "images", len(present)) as advance,
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
    ):
        warnings.simplefilter("ignore")  # pillow's, about metadata
        for part, faults in zip(parts, pool.map(look, parts), strict=True):
            advance(len(part))
            for i, fault in zip(part, faults, strict=True):
                if fault is not None:
                    text = f"{entry_name(columns.images[i], i, 'image')}: {folder / names[i]}: {fault.text}"
                    value = fault.size or names[i]
                    report.add(Fault(fault.kind, "image", columns.images[i].get("id"), text, value), folder / names[i])


def _notes(columns: Columns, report: Report) -> list[str]:
    """Gaps in the ids, classes without objects, and a guess at the cause of many equal faults."""
    notes = []
    classes = report.statistics["classes"]
    if classes["unused_ids"]:
        stretches = [str(a) if a == b else f"{a}-{b}" for a, b in classes["unused_ids"]]
        shown = ", ".join(stretches[:10]) + ", ..." * (len(stretches) > 10)
        notes.append(f"category ids have gaps ({shown}): a label is the place of an id among them, not the id")
    if classes["without_objects"]:
        names = [entry["name"] for entry in classes["by_frequency"] if not entry["objects"]]
        shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
        notes.append(f"{len(names)} of {classes['count']} classes have no object to learn from: {shown}")
    boxes = columns.boxes[np.isfinite(columns.boxes).all(1)]
    counts = Counter(report.counts)
    if len(boxes) and counts["box without area"] and boxes.max() <= 1.0:
        notes.append("all boxes lie between 0 and 1: 'bbox' is in pixels, not in shares of the image's sides")
    beyond = counts["box beyond the border"] + counts["box outside the image"]
    if beyond > len(boxes) / 10 and (boxes[:, 2:] > boxes[:, :2]).all():
        notes.append("are the boxes [x0, y0, x1, y1]? 'bbox' is [x, y, width, height]")
    return notes
