"""Masks stay in step with boxes and labels from the file to the batch, whatever is left out on the way."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rst.coco.masks import encode_mask
from rst.data import CocoDetection, DataWarning, DetectionData

HEIGHT, WIDTH = 60, 90
BOXES = {  # category id -> [x, y, width, height]; one object each
    1: [50, 30, 30, 20],
    2: [5, 5, 0, 9],  # without area
    3: [4, 8, 20, 12],
    4: [200, 8, 20, 12],  # outside the image
    5: [30, 2, 10, 40],
    6: [10, 40, 16, 16],  # its mask has no polygon of three points
    7: [70, 4, 12, 18],
}
SOUND = [1, 3, 5, 7]


def mask_of(box: list[int]) -> np.ndarray:
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two images whose objects alternate in the file, polygons and run lengths too."""
    images, annotations = [], []
    for image_id in (1, 2):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 99, np.uint8)).save(tmp_path / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH})
    for k, (category_id, (x, y, width, height)) in enumerate(BOXES.items()):
        polygon = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        shape = [[1, 2, 3, 4]] if category_id == 6 else polygon if k % 3 else encode_mask(mask_of(BOXES[category_id]))
        annotations += [
            {"id": 10 * k + i, "image_id": i, "category_id": category_id, "bbox": [x, y, width, height],
             "segmentation": shape}
            for i in (1, 2)
        ]  # fmt: skip
    categories = [{"id": category_id, "name": str(category_id)} for category_id in BOXES]
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_what_is_left_out_takes_its_mask_with_it(file):
    with pytest.warns(DataWarning, match="6 boxes left out"):
        data = CocoDetection(file, file.parent, masks=True, faulty_boxes="leave_out")
    for _, target in (data[0], data[1]):
        assert [label + 1 for label in target["labels"].tolist()] == SOUND
        for label, mask in zip(target["labels"].tolist(), target["masks"], strict=True):
            assert torch.equal(mask.bool(), torch.from_numpy(mask_of(BOXES[label + 1])))


@pytest.mark.filterwarnings("ignore::rst.data.DataWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"flip": 1.0, "short_sides": [60]},
        {"flip": 0.5, "short_sides": [48, 90], "keep_ratio": False},
        {"flip": 0.5, "short_sides": [48], "photometric": True, "expand": 2.0, "iou_crop": True, "min_box_side": 11.0},
    ],
    ids=["flip", "square", "everything"],
)
def test_batches_of_the_training_have_masks_that_fit_their_boxes(file, options):
    files = (file, file.parent) * 2
    data = DetectionData(
        *files, images_per_batch=2, max_side=200, workers=0, masks=True, faulty_boxes="leave_out", **options
    )
    data.setup("fit")
    loader = data.train_dataloader()
    seen = set()
    for epoch in range(8):
        loader.set_epoch(epoch)
        for images, targets in loader:
            for image, target in zip(images, targets, strict=True):
                assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
                assert len(target["labels"]) == len(target["boxes"])
                seen |= {label + 1 for label in target["labels"].tolist()}
                for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
                    rows, columns = mask.nonzero().unbind(1)
                    extent = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
                    assert np.abs(np.subtract(extent, box)).max() <= 1.5
    assert seen == ({1, 3, 7} if "min_box_side" in options else set(SOUND)), "the object of 10 pixels is too thin"
