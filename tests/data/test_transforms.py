"""Resizing by literal values, flips, masks, and what is drawn at random."""

from collections import Counter

import pytest
import torch
from image_items import image_item
from torchvision import tv_tensors

from rst.data.transforms import evaluation_transforms, resized, training_transforms


def plain(image):
    return image.as_subclass(torch.Tensor).float()


def item(height=40, width=60, boxes=((10, 5, 30, 25),), masks=False):
    return image_item(height, width, boxes, masks)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),  # 1066.67
        (640, 480, 800, 1333, (1067, 800)),
        (427, 640, 800, 1333, (800, 1199)),  # 1199.06
        (375, 500, 480, 1333, (480, 640)),
        (300, 1000, 800, 1333, (400, 1333)),  # the longer side binds
        (800, 1333, 800, 1333, (800, 1333)),
        (1, 5000, 800, 1333, (1, 1333)),  # never less than a pixel
        (500, 500, 333, 1333, (333, 333)),
    ],
)
def test_the_size_after_resizing(height, width, short, longest, expected):
    assert resized(height, width, short, longest) == expected


def test_evaluation_resizes_and_scales_boxes_by_the_sides_that_result():
    image, target = evaluation_transforms(50, 100)(*item())
    assert tuple(image.shape) == (3, 50, 75)
    assert image.dtype == torch.float32
    assert 0.0 <= image.min() < 0.1 < 0.9 < image.max() <= 1.0
    torch.testing.assert_close(
        target["boxes"].as_subclass(torch.Tensor), torch.tensor([[12.5, 6.25, 37.5, 31.25]]), rtol=0, atol=0
    )
    assert target["boxes"].canvas_size == (50, 75)
    assert (target["image_id"], target["original_size"]) == (9, (40, 60))


def test_the_same_size_leaves_the_pixels_alone():
    image, target = item()
    same, _ = evaluation_transforms(40, 100)(image, target)
    torch.testing.assert_close(plain(same), plain(image) / 255)


def test_a_flip_mirrors_image_boxes_and_masks():
    image, target = item(masks=True)
    flipped, mirrored = training_transforms([40], 100, flip=1.0)(image, target)
    torch.testing.assert_close(plain(flipped), plain(image).flip(-1) / 255)
    assert mirrored["boxes"].tolist() == [[30, 5, 50, 25]]
    assert torch.equal(mirrored["masks"], target["masks"].flip(-1))
    assert target["boxes"].tolist() == [[10, 5, 30, 25]], "the input is not changed"
    straight, kept = training_transforms([40], 100, flip=0.0)(image, target)
    torch.testing.assert_close(plain(straight), plain(image) / 255)
    assert kept["boxes"].tolist() == [[10, 5, 30, 25]]


def test_masks_are_resized_with_their_boxes_and_stay_binary():
    _, target = training_transforms([80], 200, flip=0.0)(*item(masks=True))
    assert tuple(target["masks"].shape) == (1, 80, 120)
    assert target["masks"].unique().tolist() == [0, 1]
    rows, columns = target["masks"][0].nonzero().unbind(1)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert [int(x) for x in found] == target["boxes"][0].tolist() == [20, 10, 60, 50]


def test_every_short_side_is_drawn_about_equally_often():
    transform = training_transforms([20, 30, 40], 100)
    torch.manual_seed(0)
    drawn = Counter(transform(*item())[0].shape[1] for _ in range(600))
    assert set(drawn) == {20, 30, 40}
    assert all(150 < count < 250 for count in drawn.values())


def test_boxes_thinner_than_a_pixel_after_shrinking_go_with_their_labels_and_masks():
    boxes = ((0, 0, 3, 30), (0, 0, 20, 20), (5, 5, 30, 8))
    _, target = training_transforms([10], 100, flip=0.0)(*item(boxes=boxes, masks=True))  # a quarter
    assert target["labels"].tolist() == [1]
    assert target["boxes"].tolist() == [[0, 0, 5, 5]]
    assert tuple(target["masks"].shape) == (1, 10, 15)
    _, target = evaluation_transforms(10, 100)(*item(boxes=boxes))
    assert target["labels"].tolist() == [0, 1, 2], "evaluation leaves nothing out"


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_that_end_at_the_border_survive_the_rounding_of_the_resize(flip):
    transform = training_transforms([800], 1333, flip=flip)
    for width in range(400, 660, 13):
        image, target = item(height=333, width=width, boxes=((10, 10, width, 333), (0, 0, 40, 40)))
        _, target = transform(tv_tensors.Image(image[:1]), target)
        assert target["labels"].tolist() == [0, 1], f"a width of {width}"
        assert target["boxes"].min() >= 0


@pytest.mark.parametrize("masks", [False, True])
def test_images_without_objects_pass(masks):
    image, target = training_transforms([80], 200, flip=1.0)(*item(boxes=(), masks=masks))
    assert tuple(image.shape) == (3, 80, 120)
    assert tuple(target["boxes"].shape) == (0, 4)
    assert tuple(target["labels"].shape) == (0,)
    if masks:
        assert tuple(target["masks"].shape) == (0, 80, 120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"short_sides": []}, r"short_sides must be a non-empty list of positive pixel counts, got \[\]"),
        ({"short_sides": [0, 5]}, r"got \[0, 5\]"),
        ({"short_sides": [600], "max_side": 500}, r"max_side must not be below the largest short side 600, got 500"),
        ({"flip": 1.5}, r"flip must lie in \[0, 1\], got 1.5"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_transforms(**arguments)
