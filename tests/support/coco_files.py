"""A small COCO set on disk whose annotation file can be spoilt."""

import copy
import json
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
    """A small set on disk whose annotation file can be spoilt."""

    def __init__(self, folder: Path):
        self.images, self.annotations = folder / "images", folder / "instances.json"
        self.content = copy.deepcopy(CONTENT)
        (self.images / "sub").mkdir(parents=True)
        for index, (name, (height, width)) in enumerate(SIZES.items()):
            Image.fromarray(np.full((height, width, 3), 60 * (index + 1), np.uint8)).save(self.images / name)

    def read(self, **options: Any) -> CocoDetection:
        self.annotations.write_text(json.dumps(self.content))
        return CocoDetection(self.annotations, self.images, **options)
