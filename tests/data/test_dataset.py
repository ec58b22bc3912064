"""Reading COCO files: what a target holds."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import Files
from PIL import Image
from torchvision import tv_tensors

from rst.data.annotations import read_annotations


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_items_hold_what_the_contract_says(files):
    data = files.read()
    assert data.category_ids == [4, 20]
    assert data.class_names == ["dog", "cat"]
    assert data.num_classes == 2
    assert data.image_ids == [7, 3, 5]
    assert data.aspect_ratios.tolist() == [1.5, 0.6, 1.0]
    image, target = data[0]
    assert isinstance(image, tv_tensors.Image)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 40, 60))
    assert image.unique().tolist() == [60]
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert (target["boxes"].dtype, target["boxes"].canvas_size) == (torch.float32, (40, 60))
    assert target["boxes"].tolist() == [[5.5, 6, 15.5, 26], [50, 30, 60, 40]], "the second is clipped"
    assert target["labels"].tolist() == [0, 1]
    assert target["labels"].dtype == torch.int64
    assert (target["image_id"], target["original_size"], target["size"]) == (7, (40, 60), (40, 60))
    assert "masks" not in target


def test_crowds_are_left_out_and_empty_images_kept_or_not(files):
    data = files.read()
    assert [len(data[i][1]["labels"]) for i in range(3)] == [2, 1, 0]
    assert tuple(data[2][1]["boxes"].shape) == (0, 4)
    assert data.left_out == {}
    files.content["annotations"] = files.content["annotations"][1:]  # image 3 keeps its crowd only
    data = files.read(keep_empty=False)
    assert data.image_ids == [7]
    assert data.aspect_ratios.tolist() == [1.5]
    assert data[0][1]["labels"].tolist() == [0, 1]


def test_annotations_marked_ignore_are_left_out_like_crowds(files):
    files.content["annotations"][0]["ignore"] = 1
    files.content["annotations"][1]["ignore"] = False
    files.content["annotations"][2]["iscrowd"] = None
    data = files.read()
    assert [len(data[i][1]["labels"]) for i in range(3)] == [2, 0, 0]
    assert data.left_out == {}


def test_lviss_images_are_found_by_their_url_below_one_root(files):
    root = files.images / "coco"
    for image, folder in zip(files.content["images"], ("train2017", "val2017", "train2017"), strict=True):
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{name.split('/')[-1]}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        (files.images / name).rename(root / folder / name.split("/")[-1])
    files.images = root
    data = files.read()
    assert [int(data[i][0].max()) for i in range(3)] == [60, 120, 180]


def test_indices_follow_pythons_rules(files):
    data = files.read()
    assert data[-1][1]["image_id"] == 5
    with pytest.raises(IndexError, match=r"index 3 of a set of 3 images"):
        data[3]
    assert [target["image_id"] for _, target in data] == [7, 3, 5]


def test_masks_from_polygons_and_run_lengths(files):
    annotations = files.content["annotations"]
    annotations[1]["segmentation"] = [[0, 0, 10, 0, 10, 5, 0, 5], [20, 20, 30, 20, 30, 40, 20, 40]]
    annotations[2]["segmentation"] = {"size": [40, 60], "counts": [0, 3, 2397]}
    data = files.read(masks=True)
    masks = data[0][1]["masks"]
    assert isinstance(masks, tv_tensors.Mask)
    assert (masks.dtype, tuple(masks.shape)) == (torch.uint8, (2, 40, 60))
    assert masks[0].nonzero().min(0).values.tolist() == [0, 0]
    assert int(masks[0].sum()) == 10 * 5 + 10 * 20
    assert masks[1].nonzero().tolist() == [[0, 0], [1, 0], [2, 0]], "run lengths go down the columns"
    assert tuple(data[2][1]["masks"].shape) == (0, 20, 20)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_other_modes_become_rgb(files, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (60, 40)).save(files.images / f"odd.{suffix}")
    files.content["images"][0]["file_name"] = f"odd.{suffix}"
    assert tuple(files.read()[0][0].shape) == (3, 40, 60)


def test_a_rotation_in_exif_is_applied_where_the_annotated_size_asks_for_it(files):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    Image.new("RGB", (60, 40)).save(files.images / "photo.jpg", exif=exif)
    image = files.content["images"][0]
    image["file_name"] = "photo.jpg"
    assert tuple(files.read()[0][0].shape) == (3, 40, 60)
    image["height"], image["width"] = 60, 40
    files.content["annotations"][2]["bbox"] = [1, 1, 5, 5]
    assert tuple(files.read()[0][0].shape) == (3, 60, 40)


def test_nothing_is_printed(files, capfd):
    files.read(masks=True)[0]
    assert capfd.readouterr() == ("", "")


def test_transforms_see_image_and_target_and_size_is_taken_after_them(files):
    def double(image, target):
        assert set(target) == {"boxes", "labels", "image_id", "original_size"}
        return torch.cat([image, image], -1), target

    target = files.read(transforms=double)[0][1]
    assert (target["original_size"], target["size"]) == ((40, 60), (40, 120))


def test_a_large_file_is_read_without_a_look_at_each_image(tmp_path, monkeypatch):
    count, each = 2_000, 7
    (tmp_path / "images").mkdir()
    for i in range(count):
        (tmp_path / "images" / f"{i}.jpg").touch()
    random = np.random.default_rng(0)
    boxes = random.uniform(1, 100, (count * each, 4)).round(1).tolist()
    owners = random.integers(0, count, count * each).tolist()
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(count)],
        "annotations": [
            {"id": k, "image_id": owner, "category_id": 1 + k % 3, "bbox": box, "iscrowd": 0}
            for k, (owner, box) in enumerate(zip(owners, boxes, strict=True))
        ],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)],
    }
    (tmp_path / "big.json").write_text(json.dumps(content))
    looks: list[Any] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looks.append(path) or stat(path, **options))
    table = read_annotations(tmp_path / "big.json", tmp_path / "images")
    assert len(looks) < 10
    assert len(table.boxes) == count * each
    row = slice(table.first[123], table.first[124])
    assert table.annotation_ids[row].tolist() == [k for k, owner in enumerate(owners) if owner == 123]
    expected = np.array([boxes[k] for k in table.annotation_ids[row]])
    np.testing.assert_allclose(table.boxes[row, 2:] - table.boxes[row, :2], expected[:, 2:], atol=1e-4)


def test_a_clean_file_warns_about_nothing(files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.read()
