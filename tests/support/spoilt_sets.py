"""The procedural set with faults planted: each is a change of the files, and the one finding that it must give."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Expected = tuple[str, str, Any]  # kind, subject, id


class SpoiltSet:
    """A copy of a split of a procedural set, with ways to find in it what a fault needs."""

    def __init__(self, source: Path, split: str, folder: Path):
        self.annotations, self.images = folder / "spoilt.json", folder / "pictures"
        shutil.copytree(source / split, self.images)
        self.content: dict[str, Any] = json.loads((source / f"annotations/{split}.json").read_text())
        self.touched: set[int] = set()  # annotations that a fault has used
        self.touched_images: set[int] = set()

    def write(self) -> None:
        self.annotations.write_text(json.dumps(self.content))

    def objects(self, wanted: Callable[[dict[str, Any]], Any] = lambda _: True) -> Iterator[dict[str, Any]]:
        """Unspoilt annotations; each is handed out once."""
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


def touches_right_border(spoilt: SpoiltSet) -> Callable[[dict[str, Any]], bool]:
    return lambda e: not e["iscrowd"] and e["bbox"][0] + e["bbox"][2] == spoilt.image_of(e)["width"]


def is_run_lengths(entry: dict[str, Any]) -> bool:
    return not entry["iscrowd"] and isinstance(entry["segmentation"], dict)


def is_polygon(entry: dict[str, Any]) -> bool:
    return not entry["iscrowd"] and isinstance(entry["segmentation"], list)


def changed(spoilt: SpoiltSet, kind: str, wanted: Any = None, **values: Any) -> Expected:
    entry = spoilt.object(wanted) if wanted else spoilt.object()
    entry.update(values)
    return kind, "annotation", entry["id"]


def without_category(spoilt: SpoiltSet) -> Expected:
    entry = spoilt.object()
    del entry["category_id"]
    return "malformed entry", "annotation", entry["id"]


def duplicate_annotation_id(spoilt: SpoiltSet) -> Expected:
    first, second = spoilt.object(), spoilt.object()
    second["id"] = first["id"]
    return "duplicate id", "annotation", first["id"]


def duplicate_image_id(spoilt: SpoiltSet) -> Expected:
    image = spoilt.content["images"][0]
    shutil.copy(spoilt.images / image["file_name"], spoilt.images / "again.png")
    spoilt.content["images"].append(image | {"file_name": "again.png"})
    return "duplicate id", "image", image["id"]


def duplicate_category_id(spoilt: SpoiltSet) -> Expected:
    category = spoilt.content["categories"][0]
    spoilt.content["categories"].append(category | {"name": "something else"})
    return "duplicate id", "category", category["id"]


def missing_picture(spoilt: SpoiltSet) -> Expected:
    image = spoilt.empty_image()
    (spoilt.images / image["file_name"]).unlink()
    return "missing picture", "image", image["id"]


def unreadable_picture(spoilt: SpoiltSet) -> Expected:
    image = spoilt.empty_image()
    (spoilt.images / image["file_name"]).write_text("no picture")
    return "unreadable picture", "image", image["id"]


def truncated_picture(spoilt: SpoiltSet) -> Expected:
    image = spoilt.empty_image()
    path = spoilt.images / image["file_name"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "unreadable picture", "image", image["id"]


def other_size(spoilt: SpoiltSet) -> Expected:
    image = spoilt.empty_image()
    image["height"] += 1
    return "picture of another size", "image", image["id"]


def picture_twice(spoilt: SpoiltSet) -> Expected:
    image_id = spoilt.new_id("images")
    spoilt.content["images"].append(spoilt.content["images"][1] | {"id": image_id})
    return "picture listed twice", "image", image_id


def class_twice(spoilt: SpoiltSet) -> Expected:
    category_id = spoilt.new_id("categories")
    spoilt.content["categories"].append({"id": category_id, "name": spoilt.content["categories"][2]["name"]})
    return "class name used twice", "category", category_id


def object_twice(spoilt: SpoiltSet) -> Expected:
    annotation_id = spoilt.new_id("annotations")
    spoilt.content["annotations"].append(spoilt.object() | {"id": annotation_id})
    return "object annotated twice", "annotation", annotation_id


def beyond_the_border(spoilt: SpoiltSet) -> Expected:
    entry = spoilt.object(touches_right_border(spoilt))
    entry["bbox"][2] += 5
    return "box beyond the border", "annotation", entry["id"]


def moved_box(spoilt: SpoiltSet) -> Expected:
    """The box of an object in the left half moves to the right by 12 pixels, its mask stays."""
    entry = spoilt.object(lambda e: not e["iscrowd"] and 20 < e["bbox"][2] < 60 and e["bbox"][0] < 20)
    entry["bbox"][0] += 12
    return "mask and box disagree", "annotation", entry["id"]


def broken_run_lengths(spoilt: SpoiltSet, kind: str = "malformed mask", wanted: Any = is_run_lengths) -> Expected:
    entry = spoilt.object(wanted)
    entry["segmentation"]["counts"] = entry["segmentation"]["counts"][:-1]
    return kind, "annotation", entry["id"]


def without_mask(spoilt: SpoiltSet) -> Expected:
    entry = spoilt.object()
    del entry["segmentation"]
    return "missing mask", "annotation", entry["id"]


def empty_run_lengths(spoilt: SpoiltSet) -> Expected:
    entry = spoilt.object(is_run_lengths)
    height, width = entry["segmentation"]["size"]
    entry["segmentation"]["counts"] = [height * width]
    return "mask without pixels", "annotation", entry["id"]


def large_area(spoilt: SpoiltSet) -> Expected:
    entry = spoilt.object()
    entry["area"] = 2 * entry["bbox"][2] * entry["bbox"][3] + 3
    return "area larger than the box", "annotation", entry["id"]


# Twenty faults, no two of them alike.
TWENTY: list[Callable[[SpoiltSet], Expected]] = [
    beyond_the_border,
    moved_box,
    broken_run_lengths,
    empty_run_lengths,
    lambda spoilt: broken_run_lengths(spoilt, "malformed mask of a crowd", lambda entry: entry["iscrowd"]),
    lambda spoilt: changed(spoilt, "mask without area", is_polygon, segmentation=[[3, 4, 10, 12]]),
    without_mask,
    without_category,
    lambda spoilt: changed(spoilt, "malformed box", bbox=[1, 2, 3]),
    lambda spoilt: changed(spoilt, "box without area", bbox=[5, 5, 0, 9]),
    lambda spoilt: changed(spoilt, "box outside the picture", bbox=[500, 5, 20, 20]),
    lambda spoilt: changed(spoilt, "unknown image", image_id=9999),
    lambda spoilt: changed(spoilt, "unknown category", category_id=3),
    lambda spoilt: changed(spoilt, "malformed area", area=-1),
    large_area,
    object_twice,
    duplicate_annotation_id,
    missing_picture,
    truncated_picture,
    other_size,
]
# More of them, some of the same kinds.
MORE: list[Callable[[SpoiltSet], Expected]] = [
    duplicate_image_id,
    duplicate_category_id,
    unreadable_picture,
    picture_twice,
    class_twice,
    lambda spoilt: changed(spoilt, "malformed box", bbox=[1, 2, float("nan"), 4]),
    lambda spoilt: changed(spoilt, "malformed box", bbox=[9, 9, -4, 4]),
    lambda spoilt: changed(spoilt, "malformed entry", iscrowd="yes"),
    lambda spoilt: changed(spoilt, "malformed mask", segmentation="none"),
    lambda spoilt: changed(spoilt, "malformed area", area="large"),
]
