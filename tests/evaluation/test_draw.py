"""Images of detections: the right pixels in the right colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from rst.coco.masks import encode_mask
from rst.evaluation.draw import MASK_OPACITY, TRUTH, class_colour, draw_detections


def detections(*rows):
    """Rows of (x0, y0, x1, y1, label, score)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


def has_colour(
    image: Image.Image, colour: tuple[int, int, int], region: tuple[int, int, int, int] | None = None
) -> bool:
    pixels = np.asarray(image.crop(region) if region else image)
    return bool((pixels == colour).all(-1).any())


def test_boxes_above_the_threshold_are_drawn_in_their_class_colour_on_a_copy():
    grey = Image.new("RGB", (200, 150), (90, 90, 90))
    found = detections((20, 40, 80, 100, 0, 0.9), (120, 40, 180, 100, 1, 0.4), (100, 110, 150, 140, 2, 0.3))
    image = draw_detections(grey, found, ["cat", "dog", "cow"], threshold=0.4)
    assert image.getpixel((20, 70)) == image.getpixel((50, 100)) == class_colour(0)
    assert image.getpixel((120, 70)) == class_colour(1)
    assert not has_colour(image, class_colour(2))
    assert image.getpixel((50, 70)) == (90, 90, 90), "inside stays as it is"
    assert has_colour(image, class_colour(0), (20, 15, 80, 40)), "the name stands above the box"
    assert set(grey.getdata() if not hasattr(grey, "get_flattened_data") else grey.get_flattened_data()) == {
        (90, 90, 90)
    }


def test_the_surest_is_on_top():
    crossing = detections((20, 40, 80, 100, 0, 0.9), (20, 40, 80, 100, 1, 0.5))
    for order in ([0, 1], [1, 0]):
        found = {key: value[order] for key, value in crossing.items()}
        assert draw_detections(Image.new("RGB", (200, 150)), found, ["a", "b"]).getpixel((20, 70)) == class_colour(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_tensors_are_taken_as_they_come_from_the_data(dtype):
    image = torch.zeros(3, 60, 80, dtype=dtype)
    image[0] = 255 if dtype == torch.uint8 else 1.0
    image = draw_detections(image, detections(), [])
    assert image.size == (80, 60)
    assert image.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_image_becomes_rgb(mode):
    assert draw_detections(Image.new(mode, (50, 40)), detections((5, 5, 20, 20, 0, 1)), ["a"]).mode == "RGB"


def test_ground_truth_is_dashed():
    image = draw_detections(
        Image.new("RGB", (200, 150)), detections(), [], truth={"boxes": torch.tensor([[20, 40, 120, 100.0]])}
    )
    edge = [image.getpixel((x, 40)) == TRUTH for x in range(20, 120)]
    assert 0.3 < np.mean(edge) < 0.8
    assert not has_colour(image, TRUTH, (30, 50, 110, 90))


@pytest.mark.parametrize(
    "box", [(0, 0, 5, 5), (-40, -40, 500, 500), (195, 145, 199, 149), (50, 50, 50, 50), (60, 60, 40, 40)], ids=str
)
def test_names_stay_inside_the_image_whatever_the_box(box):
    image = draw_detections(Image.new("RGB", (200, 150)), detections((*box, 3, 0.75)), ["", "", "", "zebra crossing"])
    pixels = np.asarray(image)
    ground = (pixels == class_colour(3)).all(-1)
    assert ground.sum() > 60, "the ground of the name is visible"


def test_a_label_without_a_name_and_a_wrong_shape_are_named():
    with pytest.raises(ValueError, match=r"label 2 has no name: class_names has 2 entries"):
        draw_detections(Image.new("RGB", (50, 50)), detections((1, 1, 5, 5, 2, 0.9)), ["a", "b"])
    with pytest.raises(ValueError, match=r"image must have shape \(3, H, W\), got \(1, 5, 5\)"):
        draw_detections(torch.zeros(1, 5, 5), detections(), [])


def test_colours_of_eighty_classes_differ():
    colours = [class_colour(label) for label in range(80)]
    assert len(set(colours)) == 80
    assert all(max(colour) == 255 for colour in colours)


def test_small_images_are_enlarged_with_their_boxes():
    grey = Image.new("RGB", (40, 30), (90, 90, 90))
    found = {"boxes": [[10.0, 10.0, 30.0, 25.0]], "labels": [0], "scores": [0.9]}
    drawn = draw_detections(grey, found, ["thing"], least_side=100)
    assert drawn.size == (160, 120)
    colour = class_colour(0)
    assert drawn.getpixel((120, 70)) == drawn.getpixel((80, 100)) == colour, "right and lower edge, four times as far"
    assert draw_detections(grey, found, ["thing"], least_side=30).size == (40, 30)


def test_masks_are_half_transparent_in_the_colour_of_their_class():
    grey = Image.new("RGB", (200, 150), (90, 90, 90))
    mask = np.zeros((150, 200), bool)
    mask[60:90, 40:70] = True
    found = detections((20, 40, 80, 100, 0, 0.9)) | {"segmentations": [encode_mask(mask)]}
    drawn = draw_detections(grey, found, ["cat"])
    blended = tuple(round((1 - MASK_OPACITY) * 90 + MASK_OPACITY * value) for value in class_colour(0))
    assert drawn.getpixel((55, 75)) == blended
    assert drawn.getpixel((30, 75)) == (90, 90, 90)
    below = draw_detections(grey, found, ["cat"], threshold=0.95)
    assert below.getpixel((55, 75)) == (90, 90, 90), "not drawn, so no mask either"
