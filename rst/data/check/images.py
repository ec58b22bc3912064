"""The check of image files: all there, readable, of the annotated size, and what is to know about how they are read."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from rst.coco.columns import Columns
from rst.coco.faults import Fault, entry_name
from rst.data.check.report import Report
from rst.data.image_files import FileNames, hint_where, locate_images
from rst.data.images import Decoding, Inspection, inspect_image

# Makes a context manager around a step of the check, from its name and the number of its parts. It gives a function to
# call with the number of parts done since the last call.
Track = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]

# Headers are read by Python code, one thread at a time: a second thread hides the waiting for the disk, more are slower
# (measured). Decoding is C code: one thread per core.
HEADER_THREADS, HEADERS_AT_ONCE = 2, 64


def check_images(
    columns: Columns,
    report: Report,
    track: Track,
    *,
    headers: bool,
    decode: bool,
    file_names: FileNames,
    decoding: Decoding,
) -> None:
    """Report what is wrong with the image files, and remark on those that are read in a way to know about.

    Args:
        columns: the annotations.
        report: takes the findings and remarks.
        track: shows the progress.
        headers: look at the header of each image.
        decode: decode each image whole.
        file_names, decoding: the settings of the training.
    """
    folder = report.images
    named = [i for i, name in enumerate(columns.file_names) if name]
    located = locate_images([columns.file_names[i] for i in named], folder, file_names)
    names = dict(zip(named, located.names, strict=True))
    if located.others:
        files = "1 file has" if located.others == 1 else f"{located.others:,} files have"
        report.notes.append(f"{files} no entry in the annotations, in the folders of the images")
    if remark := located.applied():
        report.notes.append(remark)
    if remark := located.offer():
        report.notes.append(f"image files are missing{remark}")

    absent = {named[k] for k in located.absent}
    hint = hint_where(names[min(absent)], folder) if absent else ""
    for i in sorted(absent):
        text = f"{entry_name(columns.images[i], i, 'image')}: no such image file: {folder / names[i]}{hint}"
        report.add(Fault("missing image file", "image", columns.images[i].get("id"), text, names[i]), folder / names[i])
    present = [i for i in named if i not in absent and (columns.sizes[i] > 0).all()]
    if not headers:
        return

    def size(i: int) -> tuple[int, int]:
        return int(columns.sizes[i, 0]), int(columns.sizes[i, 1])

    def look(part: list[int]) -> list[Inspection]:
        return [inspect_image(folder / names[i], *size(i), decode=decode, decoding=decoding) for i in part]

    step, threads = (1, os.cpu_count() or 1) if decode else (HEADERS_AT_ONCE, HEADER_THREADS)
    parts = [present[start : start + step] for start in range(0, len(present), step)]
    sixteen_bits, pages = [], []
    with (
        track("images decoded" if decode else "images", len(present)) as advance,
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
    ):
        warnings.simplefilter("ignore")  # pillow's, about metadata
        for part, inspections in zip(parts, pool.map(look, parts), strict=True):
            advance(len(part))
            for i, inspection in zip(part, inspections, strict=True):
                path, image = folder / names[i], columns.images[i]
                for kind, said, value in _findings(inspection, names[i], decoding):
                    text = f"{entry_name(image, i, 'image')}: {path}: {said}"
                    report.add(Fault(kind, "image", image.get("id"), text, value), path)
                sixteen_bits += [path] * inspection.sixteen_bits
                pages += [path] * inspection.pages
    report.notes += _remarks(sixteen_bits, "is grey with 16 bits", "are grey with 16 bits", "the higher 8 are used")
    report.notes += _remarks(pages, "has several pages or frames", "have several pages or frames", "the first is used")


def _findings(inspection: Inspection, name: str, decoding: Decoding) -> list[tuple[str, str, str | list[int]]]:
    """(kind, text, value) of what is wrong with an image file, and of an orientation in EXIF that needs a look."""
    if fault := inspection.fault:
        return [(fault.kind, fault.text, fault.size or name)]
    setting, turn = decoding.exif, inspection.turn
    if turn == "turned by setting":
        kind, text = (
            "EXIF orientation undecided",
            "turned as its EXIF says, by data.exif: upright; its size fits both ways",
        )
    elif turn == "left by setting":
        kind, text = "EXIF orientation not applied", "its EXIF says to turn it, data.exif: stored does not"
    elif turn == "left by size" and setting == "upright":
        text = "its EXIF says to turn it, but its annotated size fits the stored pixels; rst predict turns it"
        kind, text = "EXIF orientation not applied", f"{text}, unless data.exif is stored"
    elif turn == "turned by size" and setting == "stored":
        text = "turned as its EXIF says, because its annotated size asks for it; rst predict does not turn it"
        kind, text = "EXIF orientation against data.exif", f"{text}, unless data.exif is upright"
    else:
        return []
    return [(kind, text, turn)]


def _remarks(paths: Sequence[Path], one: str, many: str, use: str) -> list[str]:
    if not paths:
        return []
    which = f"{paths[0]} {one}" if len(paths) == 1 else f"{len(paths):,} images {many} (the first: {paths[0]})"
    return [f"{which}: {use}"]
