"""YOLACT's augmentations: what they do to images, boxes and masks, and that they are seeded and resumable."""

import json
from pathlib import Path

import pytest
import torch
from image_items import image_item

from rst.data import DetectionData
from rst.data.samples import shapes
from rst.data.transforms import MEAN_COLOUR, evaluation_transforms, training_transforms

YOLACT = {"keep_ratio": False, "photometric": True, "expand": 4.0, "iou_crop": True, "min_box_side": 4.0}


def item(height=60, width=90, boxes=((20, 10, 60, 50), (2, 2, 8, 9)), masks=True):
    return image_item(height, width, boxes, masks)


def only(**option):
    """The transform with one augmentation and nothing else, at the size of the image."""
    return training_transforms([60], 90, flip=0.0, **option)


def many(transform, count=200, **options):
    torch.manual_seed(0)
    start = item(**options)
    return start, [transform(*start) for _ in range(count)]


def extent(mask) -> list[int]:
    rows, columns = mask.nonzero().unbind(1)
    return [int(x) for x in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_a_square_whatever_the_ratio_was():
    image, target = evaluation_transforms(45, keep_ratio=False)(*item())
    assert tuple(image.shape) == (3, 45, 45)
    assert target["boxes"].tolist()[0] == [10, 7.5, 30, 37.5]
    _, drawn = many(training_transforms([30, 40], 1, flip=0.0, keep_ratio=False), 40)
    assert {tuple(image.shape[1:]) for image, _ in drawn} == {(30, 30), (40, 40)}


def test_photometric_distortion_changes_colours_only():
    (image, target), drawn = many(only(photometric=True), 60)
    before = image.as_subclass(torch.Tensor) / 255
    same = sum(torch.equal(after.as_subclass(torch.Tensor), before) for after, _ in drawn)
    assert same < 10, "untouched with probability 1/32"
    for after, kept in drawn:
        assert 0 <= after.min() <= after.max() <= 1
        assert kept["boxes"].tolist() == target["boxes"].tolist()
        assert torch.equal(kept["masks"], target["masks"])


def test_expanding_shrinks_the_objects_on_a_ground_of_the_mean_colour():
    (_, _), drawn = many(only(expand=4.0), 100)
    kept, sides, corners = 0, [], []
    for image, target in drawn:
        x0, y0, x1, y1 = target["boxes"][0].tolist()
        sides.append(60 / image.shape[1] * (y1 - y0) / 40)
        kept += [x0, y0, x1, y1] == [20, 10, 60, 50]
        found = extent(target["masks"][0])
        assert all(abs(a - b) <= 1.5 for a, b in zip(found, (x0, y0, x1, y1), strict=True))
        corners.append((image[:, 0, 0] * 255).round().tolist())
    assert 30 <= kept <= 70, "with probability one half"
    assert 0.25 <= min(sides) < 0.4
    assert max(sides) == 1.0
    assert sum(corner == MEAN_COLOUR for corner in corners) > 20


def test_a_crop_holds_the_centre_of_every_object_that_stays():
    (_, _), drawn = many(only(iou_crop=True), 200)
    sizes, counts = set(), set()
    for image, target in drawn:
        sizes.add(tuple(image.shape[1:]))
        counts.add(len(target["labels"]))
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) >= 1
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            assert 0 <= box[0] < box[2] <= image.shape[2]
            assert 0 <= box[1] < box[3] <= image.shape[1]
            assert all(abs(a - b) <= 2.5 for a, b in zip(extent(mask), box, strict=True))
    assert len(sizes) > 20
    assert counts == {1, 2}, "some crops leave an object out"


@pytest.mark.parametrize(
    "options", [{"boxes": ()}, {"boxes": (), "masks": False}, {"height": 3, "width": 4, "boxes": ()}]
)
def test_images_without_objects_and_tiny_ones_pass(options):
    transform = training_transforms([30], 60, **YOLACT)
    (_, _), drawn = many(transform, 20, **options)
    assert {tuple(image.shape) for image, _ in drawn} == {(3, 30, 30)}
    assert all(len(target["boxes"]) == 0 for _, target in drawn)


def test_a_tiny_image_with_an_object_is_not_cropped():
    _, drawn = many(
        training_transforms([30], 60, iou_crop=True, flip=0.0), 50, height=2, width=3, boxes=((0, 0, 2, 2),)
    )
    assert all(target["boxes"].tolist() == [[0, 0, 30, 30]] for _, target in drawn)


def test_boxes_below_the_least_side_go_by_their_size_in_the_file():
    boxes = ((0, 0, 3, 30), (0, 0, 4, 4), (5, 5, 30, 30))
    _, target = training_transforms([120], 500, flip=0.0, min_box_side=4.0)(*item(boxes=boxes))
    assert target["labels"].tolist() == [1, 2]
    assert len(target["masks"]) == 2


def test_without_augmentations_the_draws_are_those_of_resizing_and_flipping():
    torch.manual_seed(3)
    start = item()
    torch.manual_seed(4)
    plain = training_transforms([60, 80], 200)(*start)
    torch.manual_seed(4)
    off = training_transforms([60, 80], 200, expand=1.0, min_box_side=1.0)(*start)
    assert torch.equal(plain[0], off[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("augmented") / "shapes"
    shapes.prepare(made, train=9, val=2, side=64, seed=3)
    return made


def data_of(folder: Path, **options) -> DetectionData:
    files = [folder / "annotations/train.json", folder / "train", folder / "annotations/val.json", folder / "val"]
    return DetectionData(*files, images_per_batch=2, short_sides=[48], workers=0, masks=True, **options)


def seen(loader, epoch: int) -> list[tuple]:
    loader.set_epoch(epoch)
    return [
        (target["image_id"], float(image.double().sum()), target["boxes"].tolist(), int(target["masks"].sum()))
        for images, targets in loader
        for image, target in zip(images, targets, strict=True)
    ]


def test_augmented_batches_are_seeded_and_resumed_exactly(folder):
    options = YOLACT | {"repeat_threshold": 0.9}
    runs = []
    for _ in range(2):
        data = data_of(folder, **options)
        data.setup("fit")
        torch.manual_seed(len(runs))  # what ran before does not matter
        runs.append([seen(data.train_dataloader(), epoch) for epoch in range(2)])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]
    assert len(runs[0][0]) > 10, "images are repeated"
    data.set_position(1, 3)
    resumed = data.train_dataloader()
    assert seen(resumed, 1) == runs[0][1][6:]


def test_validation_has_none_of_it(folder):
    data = data_of(folder, **YOLACT)
    data.setup("validate")
    batches = [list(data.val_dataloader()) for _ in range(2)]
    for (images, _), (again, _) in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
        assert all(tuple(image.shape) == (3, 48, 48) for image in images)
    content = json.loads((folder / "annotations/val.json").read_text())
    boxes = sum(not annotation["iscrowd"] for annotation in content["annotations"])
    assert sum(len(target["labels"]) for _, targets in batches[0] for target in targets) == boxes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expand": 0.5}, r"expand must lie in \[1, 16\] times the sides of the image, got 0.5"),
        ({"expand": float("nan")}, r"expand must lie in \[1, 16\].* got nan"),
        ({"min_box_side": 0.0}, r"min_box_side must be at least 1 pixel, got 0.0"),
        ({"keep_ratio": False, "short_sides": [0]}, r"short_sides must be a non-empty list of positive .* got \[0\]"),
        ({"repeat_threshold": 2.0}, r"repeat_threshold must lie in \(0, 1\].* got 2.0"),
        ({"repeat_rounding": "off"}, r"repeat_rounding must be 'random' or 'up', got 'off'"),
    ],
)
def test_arguments_out_of_range_are_named(folder, options, message):
    files = [folder / "annotations/train.json", folder / "train", folder / "annotations/val.json", folder / "val"]
    with pytest.raises(ValueError, match=message):
        DetectionData(*files, **options)
