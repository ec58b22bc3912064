"""Which images and targets a detector refuses, with which message, and what it makes of the others."""

from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from rst.detectors.features.inputs import NormalizeAndPad, check_images, check_targets

IMAGE = torch.zeros(3, 32, 32)


def target(boxes: Any = ((1.0, 2, 3, 4),), labels: Any = (0,), **masks: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"boxes": torch.as_tensor(boxes), "labels": torch.as_tensor(labels), **masks}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "images is empty"),
        ([IMAGE, torch.zeros(1, 32, 32)], r"images\[1\] has shape \(1, 32, 32\)"),
        ([torch.zeros(1, 3, 32, 32)], r"images\[0\] has shape \(1, 3, 32, 32\)"),
        ([torch.zeros(3, 0, 32)], r"images\[0\] has shape \(3, 0, 32\)"),
        ([IMAGE.byte()], r"images\[0\] is torch.uint8"),
    ],
)
def test_refused_images(images: list[torch.Tensor], words: str):
    with pytest.raises(ValueError, match=words):
        check_images(images)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (None, "targets is None"),
        ([], "targets has 0 elements for 1 images"),
        ([{"boxes": torch.zeros(0, 4)}], r"targets\[0\] has no key 'labels'"),
        ([target(boxes=torch.zeros(4))], r"targets\[0\]\['boxes'\] has shape \(4,\)"),
        ([target(boxes=torch.zeros(1, 5))], r"targets\[0\]\['boxes'\] has shape \(1, 5\)"),
        ([target(labels=[0, 1])], r"targets\[0\]\['labels'\] has shape \(2,\) for 1 boxes"),
        ([target(labels=[0.0])], r"targets\[0\]\['labels'\] is torch.float32, not torch.int64"),
        ([target(labels=[5])], r"targets\[0\]\['labels'\] holds 5, which is not in \[0, 5\)"),
        ([target(labels=[-1])], r"targets\[0\]\['labels'\] holds -1, which is not in \[0, 5\)"),
        ([target(boxes=[[0, 0, torch.inf, 4]])], r"targets\[0\]\['boxes'\] holds \[0.0, 0.0, inf, 4.0\]"),
        ([target(boxes=[[0, torch.nan, 4, 4]])], r"targets\[0\]\['boxes'\] holds \[0.0, nan, 4.0, 4.0\]"),
    ],
)
def test_refused_targets(targets: list[dict[str, torch.Tensor]] | None, words: str):
    with pytest.raises(ValueError, match=words):
        check_targets(targets, [IMAGE], num_classes=5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (target(), r"targets\[0\] has no key 'masks'"),
        (target(masks=torch.zeros(2, 32, 32).bool()), r"\['masks'\] has shape \(2, 32, 32\), not \(1, 32, 32\)"),
        (target(masks=torch.zeros(1, 32, 31).bool()), r"\['masks'\] has shape \(1, 32, 31\), not \(1, 32, 32\)"),
        (target(masks=torch.zeros(32, 32).bool()), r"\['masks'\] has shape \(32, 32\), not \(1, 32, 32\)"),
        (target(masks=torch.zeros(1, 32, 32)), r"\['masks'\] is torch.float32, not torch.bool or torch.uint8"),
    ],
)
def test_refused_masks(given: dict[str, torch.Tensor], words: str):
    with pytest.raises(ValueError, match=words):
        check_targets([given], [IMAGE], num_classes=5, masks=True)
    (checked,) = check_targets([given], [IMAGE], num_classes=5)
    assert checked.keys() == {"boxes", "labels"}, "a detector without masks does not look at them"


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_degenerate_boxes_are_left_out_and_the_target_stays_as_it_was(dtype: torch.dtype):
    masks = tv_tensors.Mask(torch.eye(5, 32 * 32, dtype=dtype).view(5, 32, 32))
    boxes = [[0.0, 0, 10, 10], [5, 5, 5, 9], [5, 5, 9, 5], [9, 9, 8.999, 12], [1, 1, 2, 2]]
    given = target(boxes, [0, 1, 2, 3, 4], masks=masks)
    (checked,) = check_targets([given], [IMAGE], num_classes=5, masks=True)
    assert checked["labels"].tolist() == [0, 4]
    assert checked["boxes"].tolist() == [[0, 0, 10, 10], [1, 1, 2, 2]]
    assert type(checked["masks"]) is torch.Tensor
    assert torch.equal(checked["masks"], masks[[0, 4]].as_subclass(torch.Tensor))
    assert checked["masks"].dtype == dtype
    assert [len(value) for value in given.values()] == [5, 5, 5]


def test_tv_tensors_and_other_dtypes_become_plain_float32():
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0, 4, 4]]), format="XYXY", canvas_size=(32, 32))
    (checked,) = check_targets([target(boxes.double())], [IMAGE], num_classes=1)
    assert type(checked["boxes"]) is torch.Tensor
    assert checked["boxes"].dtype == torch.float32
    assert type(check_images([tv_tensors.Image(IMAGE)])[0]) is torch.Tensor


def test_normalisation_precedes_padding():
    images = [torch.full((3, 33, 20), 0.5), torch.zeros(3, 10, 64)]
    transform = NormalizeAndPad()
    batch = transform(images)
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.sizes == [(33, 20), (10, 64)]
    assert batch.padded_size == transform.padded_size(images) == (64, 64)
    grey = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(batch.pixels[0, :, 32, 19], grey)
    assert not batch.pixels[0, :, 33:].any()
    assert not batch.pixels[0, :, :, 20:].any()
