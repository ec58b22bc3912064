"""The check of a data set: one pass over the annotations, then each image file."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from rst.coco.columns import Columns, read_columns
from rst.coco.errors import DataError
from rst.coco.faults import Fault, entry_name, refuse
from rst.coco.fields import integer_column, load_json, section_entries, string_column, without_collector
from rst.coco.lvis import is_lvis
from rst.data.check.images import Track, check_images
from rst.data.check.lvis import check_lvis
from rst.data.check.objects import check_areas, check_boxes, check_masks, check_repeats
from rst.data.check.report import Report
from rst.data.check.statistics import describe
from rst.data.image_files import FileNames
from rst.data.images import DEFAULT_DECODING, Decoding

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
    file_names: FileNames = "exact",
    decoding: Decoding = DEFAULT_DECODING,
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
        file_names: judge for a training with this setting; see `rst.data.image_files`.
        decoding: judge for a training with these settings; see `rst.data.images`.
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
        check_images(
            columns, report, track, headers=headers or decode, decode=decode, file_names=file_names, decoding=decoding
        )
        report.statistics = describe(columns, corners)
        if model is not None and transforms is not None:
            _check_anchors(model, transforms, columns, corners, report, track)
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


def _check_anchors(
    model: Any, transforms: Callable[..., Any], columns: Columns, corners: np.ndarray, report: Report, track: Track
) -> None:
    """How many positives the detector finds, and which objects its anchors miss."""
    from rst.data.check.positives import count_positives, picked_by_predictions  # torch takes seconds to import
    from rst.data.check.reach import measure_reach
    from rst.data.check.reach_text import warn_of_reach
    from rst.data.check.seen import Objects

    objects, statistics = Objects.of_columns(columns, corners), report.statistics
    if picked_by_predictions(model):
        statistics["positives"] = {"images": 0, "objects": 0, "heads": {}, "picked_by_predictions": True}
    elif hasattr(model, "positives"):
        with track("positives", min(SAMPLE, statistics["images"]["with_objects"])) as advance:
            statistics["positives"] = count_positives(model, transforms, objects, advance, sample=SAMPLE)
    with track("anchors", 0):
        statistics["anchors"] = measure_reach(model, transforms, objects, statistics.get("positives"))
    for missed, advice in warn_of_reach(statistics["anchors"]) if statistics["anchors"] else ():
        report.add(Fault("objects that no anchor reaches", "file", None, f"{missed}; {advice}"))


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
