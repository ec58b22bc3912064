"""A small COCO set on disk whose annotation file can be corrupted."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rst.data import CocoDetection

SIZES = {"a.png": (40, 60), "b.png": (50, 30), "sub/c.png": (20, 20)}  # height, width
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 3, "file_name": "b.png", "height": 50, "width": 30},
        {"id": 5, "file_name": "sub/c.png", "height": 20, "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 20, "bbox": [1, 2, 10, 12], "segmentation": [[1, 2, 11, 2, 11, 14]]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [5.5, 6, 10, 20], "segmentation": [[5, 6, 15, 6, 15, 26]]},
        {
            "id": 3,
            "image_id": 7,
            "category_id": 20,
            "bbox": [50, 30, 30, 30],
            "segmentation": [[50, 30, 60, 30, 60, 40]],
        },
        {"id": 4, "image_id": 3, "category_id": 4, "bbox": [0, 0, 30, 50], "iscrowd": 1},
    ],
    "categories": [{"id": 20, "name": "cat"}, {"id": 4, "name": "dog"}],
}


class Files:
    """A small set on disk whose annotation file can be corrupted."""

    def __init__(self, folder: Path):
        self.images, self.annotations = folder / "images", folder / "instances.json"
        self.content = copy.deepcopy(CONTENT)
        (self.images / "sub").mkdir(parents=True)
        for index, (name, (height, width)) in enumerate(SIZES.items()):
            Image.fromarray(np.full((height, width, 3), 60 * (index + 1), np.uint8)).save(self.images / name)

    def read(self, **options: Any) -> CocoDetection:
        self.annotations.write_text(json.dumps(self.content))
        return CocoDetection(self.annotations, self.images, **options)


def drop(section: str, index: int, key: str):
    return lambda content: content[section][index].pop(key)


def put(section: str, index: int, **values: Any):
    return lambda content: content[section][index].update(values)


# Name -> what corrupts a content, and what a message must say then. Each is refused when the file is read.
FAULTS = {
    "no images": (lambda c: c.pop("images"), r"has no key 'images'"),
    "no annotations": (lambda c: c.pop("annotations"), r"has no key 'annotations'"),
    "no categories": (lambda c: c.pop("categories"), r"has no key 'categories'"),
    "empty categories": (lambda c: c.update(categories=[]), r"'categories' is empty"),
    "empty images": (lambda c: c.update(images=[]), r"'images' is empty"),
    "crowd flag that is text": (
        put("annotations", 0, iscrowd="no"),
        r"annotation 1: 'iscrowd' must be 0 or 1, is 'no'",
    ),
    "ignore flag that is two": (put("annotations", 0, ignore=2), r"annotation 1: 'ignore' must be 0 or 1, is 2"),
    "section of a wrong kind": (lambda c: c.update(images={}), r"'images' must be a list, not a object"),
    "entry of a wrong kind": (
        lambda c: c["annotations"].append(5),
        r"annotations\[4\] must be an object, not a number",
    ),
    "image without id": (drop("images", 1, "id"), r"image number 2 has no key 'id'"),
    "image without file": (drop("images", 1, "file_name"), r"image 3 has no key 'file_name'"),
    "image without height": (drop("images", 1, "height"), r"image 3 has no key 'height'"),
    "image without width": (drop("images", 1, "width"), r"image 3 has no key 'width'"),
    "image of no width": (put("images", 1, width=0), r"image 3 has height 50 and width 0"),
    "annotation without id": (drop("annotations", 2, "id"), r"annotation number 3 has no key 'id'"),
    "annotation without image": (drop("annotations", 1, "image_id"), r"annotation 2 has no key 'image_id'"),
    "annotation without category": (drop("annotations", 1, "category_id"), r"annotation 2 has no key 'category_id'"),
    "annotation without box": (
        drop("annotations", 1, "bbox"),
        r"annotation 2: 'bbox' must be four numbers .* is missing",
    ),
    "category without name": (drop("categories", 0, "name"), r"category 20 has no key 'name'"),
    "id that is text": (put("images", 1, id="x3"), r"image number 2: 'id' must be an integer, is 'x3'"),
    "id that is a boolean": (put("images", 1, id=True), r"'id' must be an integer, is True"),
    "id beyond 64 bits": (
        put("images", 1, id=2**70),
        r"image number 2: 'id' must be an integer of 64 bits, is 1.18059",
    ),
    "unknown image": (
        put("annotations", 1, image_id=99),
        r"annotation 2: image_id 99 is no image .*\(image ids: 3, 5, 7\)",
    ),
    "unknown category": (
        put("annotations", 1, category_id=5),
        r"annotation 2: category_id 5 is no category of this file \(category ids: 4, 20\)",
    ),
    "duplicate image": (put("images", 1, id=7), r"image id 7 is used 2 times"),
    "duplicate annotation": (put("annotations", 1, id=1), r"annotation id 1 is used 2 times"),
    "duplicate category": (put("categories", 1, id=20), r"category id 20 is used 2 times"),
    "box of three numbers": (
        put("annotations", 1, bbox=[1, 2, 3]),
        r"annotation 2: 'bbox' must be four .* is \[1, 2, 3\]",
    ),
    "box of text": (put("annotations", 1, bbox=["1", 2, 3, 4]), r"annotation 2: 'bbox' must be four numbers"),
    "box that is NaN": (put("annotations", 1, bbox=[1, 2, float("nan"), 4]), r"annotation 2: 'bbox' is not finite"),
    "box beyond floats": (
        put("annotations", 1, bbox=[1, 2, 10**400, 4]),
        r"annotation 2: 'bbox' is not finite: \[1, 2, 1000",
    ),
    "missing image file": (
        put("images", 2, file_name="sub/d.png"),
        r"sub/d.png: no such image file; it is image 5 of .*json",
    ),
}


def corrupted_copy(folder: Path, place: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the validation annotations of a data set, in `place`, after `change` of its content."""
    content = json.loads((folder / "annotations/val.json").read_text())
    change(content)
    path = place / "corrupted.json"
    path.write_text(json.dumps(content))
    return path
