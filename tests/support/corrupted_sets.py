"""The procedural set with faults planted: each is a change of the files, and the one finding that it must give."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Expected = tuple[str, str, Any]  # kind, subject, id


class CorruptedSet:
    """A copy of a split of a procedural set, with ways to find in it what a fault needs."""

    def __init__(self, source: Path, split: str, folder: Path):
        self.annotations, self.images = folder / "corrupted.json", folder / "images"
        shutil.copytree(source / split, self.images)
        self.content: dict[str, Any] = json.loads((source / f"annotations/{split}.json").read_text())
        self.touched: set[int] = set()  # annotations that a fault has used
        self.touched_images: set[int] = set()

    def write(self) -> None:
        self.annotations.write_text(json.dumps(self.content))

    def objects(self, wanted: Callable[[dict[str, Any]], Any] = lambda _: True) -> Iterator[dict[str, Any]]:
        """Intact annotations; each is handed out once."""
        for entry in self.content["annotations"]:
            if entry["id"] not in self.touched and wanted(entry):
                self.touched.add(entry["id"])
                yield entry

    def object(self, wanted: Callable[[dict[str, Any]], Any] = lambda entry: not entry["iscrowd"]) -> dict[str, Any]:
        return next(self.objects(wanted))

    def image_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        return next(image for image in self.content["images"] if image["id"] == entry["image_id"])

    def empty_image(self) -> dict[str, Any]:
        """An image without annotations that no fault has used; each is handed out once."""
        taken = {entry["image_id"] for entry in self.content["annotations"]} | self.touched_images
        image = next(image for image in self.content["images"] if image["id"] not in taken)
        self.touched_images.add(image["id"])
        return image

    def new_id(self, section: str) -> int:
        return max(entry["id"] for entry in self.content[section]) + 1


def touches_right_border(corrupted: CorruptedSet) -> Callable[[dict[str, Any]], bool]:
    return lambda e: not e["iscrowd"] and e["bbox"][0] + e["bbox"][2] == corrupted.image_of(e)["width"]


def is_run_lengths(entry: dict[str, Any]) -> bool:
    return not entry["iscrowd"] and isinstance(entry["segmentation"], dict)


def is_polygon(entry: dict[str, Any]) -> bool:
    return not entry["iscrowd"] and isinstance(entry["segmentation"], list)


def changed(corrupted: CorruptedSet, kind: str, wanted: Any = None, **values: Any) -> Expected:
    entry = corrupted.object(wanted) if wanted else corrupted.object()
    entry.update(values)
    return kind, "annotation", entry["id"]


def without_category(corrupted: CorruptedSet) -> Expected:
    entry = corrupted.object()
    del entry["category_id"]
    return "malformed entry", "annotation", entry["id"]


def duplicate_annotation_id(corrupted: CorruptedSet) -> Expected:
    first, second = corrupted.object(), corrupted.object()
    second["id"] = first["id"]
    return "duplicate id", "annotation", first["id"]


def duplicate_image_id(corrupted: CorruptedSet) -> Expected:
    image = corrupted.content["images"][0]
    shutil.copy(corrupted.images / image["file_name"], corrupted.images / "again.png")
    corrupted.content["images"].append(image | {"file_name": "again.png"})
    return "duplicate id", "image", image["id"]


def duplicate_category_id(corrupted: CorruptedSet) -> Expected:
    category = corrupted.content["categories"][0]
    corrupted.content["categories"].append(category | {"name": "something else"})
    return "duplicate id", "category", category["id"]


def missing_file(corrupted: CorruptedSet) -> Expected:
    image = corrupted.empty_image()
    (corrupted.images / image["file_name"]).unlink()
    return "missing image file", "image", image["id"]


def unreadable_file(corrupted: CorruptedSet) -> Expected:
    image = corrupted.empty_image()
    (corrupted.images / image["file_name"]).write_text("no image")
    return "unreadable image file", "image", image["id"]


def truncated_file(corrupted: CorruptedSet) -> Expected:
    image = corrupted.empty_image()
    path = corrupted.images / image["file_name"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "unreadable image file", "image", image["id"]


def other_size(corrupted: CorruptedSet) -> Expected:
    image = corrupted.empty_image()
    image["height"] += 1
    return "image file of another size", "image", image["id"]


def image_twice(corrupted: CorruptedSet) -> Expected:
    image_id = corrupted.new_id("images")
    corrupted.content["images"].append(corrupted.content["images"][1] | {"id": image_id})
    return "image listed twice", "image", image_id


def class_twice(corrupted: CorruptedSet) -> Expected:
    category_id = corrupted.new_id("categories")
    corrupted.content["categories"].append({"id": category_id, "name": corrupted.content["categories"][2]["name"]})
    return "class name used twice", "category", category_id


def object_twice(corrupted: CorruptedSet) -> Expected:
    annotation_id = corrupted.new_id("annotations")
    corrupted.content["annotations"].append(corrupted.object() | {"id": annotation_id})
    return "object annotated twice", "annotation", annotation_id


def beyond_the_border(corrupted: CorruptedSet) -> Expected:
    entry = corrupted.object(touches_right_border(corrupted))
    entry["bbox"][2] += 5
    return "box beyond the border", "annotation", entry["id"]


def moved_box(corrupted: CorruptedSet) -> Expected:
    """The box of an object in the left half moves to the right by 12 pixels, its mask stays."""
    entry = corrupted.object(lambda e: not e["iscrowd"] and 20 < e["bbox"][2] < 60 and e["bbox"][0] < 20)
    entry["bbox"][0] += 12
    return "mask and box disagree", "annotation", entry["id"]


def broken_run_lengths(corrupted: CorruptedSet, kind: str = "malformed mask", wanted: Any = is_run_lengths) -> Expected:
    entry = corrupted.object(wanted)
    entry["segmentation"]["counts"] = entry["segmentation"]["counts"][:-1]
    return kind, "annotation", entry["id"]


def without_mask(corrupted: CorruptedSet) -> Expected:
    entry = corrupted.object()
    del entry["segmentation"]
    return "missing mask", "annotation", entry["id"]


def empty_run_lengths(corrupted: CorruptedSet) -> Expected:
    entry = corrupted.object(is_run_lengths)
    height, width = entry["segmentation"]["size"]
    entry["segmentation"]["counts"] = [height * width]
    return "mask without pixels", "annotation", entry["id"]


def large_area(corrupted: CorruptedSet) -> Expected:
    entry = corrupted.object()
    entry["area"] = 2 * entry["bbox"][2] * entry["bbox"][3] + 3
    return "area larger than the box", "annotation", entry["id"]


# Twenty faults, no two of them alike.
TWENTY: list[Callable[[CorruptedSet], Expected]] = [
    beyond_the_border,
    moved_box,
    broken_run_lengths,
    empty_run_lengths,
    lambda corrupted: broken_run_lengths(corrupted, "malformed mask of a crowd", lambda entry: entry["iscrowd"]),
    lambda corrupted: changed(corrupted, "mask without area", is_polygon, segmentation=[[3, 4, 10, 12]]),
    without_mask,
    without_category,
    lambda corrupted: changed(corrupted, "malformed box", bbox=[1, 2, 3]),
    lambda corrupted: changed(corrupted, "box without area", bbox=[5, 5, 0, 9]),
    lambda corrupted: changed(corrupted, "box outside the image", bbox=[500, 5, 20, 20]),
    lambda corrupted: changed(corrupted, "unknown image", image_id=9999),
    lambda corrupted: changed(corrupted, "unknown category", category_id=3),
    lambda corrupted: changed(corrupted, "malformed area", area=-1),
    large_area,
    object_twice,
    duplicate_annotation_id,
    missing_file,
    truncated_file,
    other_size,
]
# More of them, some of the same kinds.
MORE: list[Callable[[CorruptedSet], Expected]] = [
    duplicate_image_id,
    duplicate_category_id,
    unreadable_file,
    image_twice,
    class_twice,
    lambda corrupted: changed(corrupted, "malformed box", bbox=[1, 2, float("nan"), 4]),
    lambda corrupted: changed(corrupted, "malformed box", bbox=[9, 9, -4, 4]),
    lambda corrupted: changed(corrupted, "malformed entry", iscrowd="yes"),
    lambda corrupted: changed(corrupted, "malformed mask", segmentation="none"),
    lambda corrupted: changed(corrupted, "malformed area", area="large"),
]
