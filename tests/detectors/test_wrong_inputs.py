"""Wrong images and targets handed to the methods of every detector: an error by the argument's name, never a guess."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detector_cases import CASES, Case, objects_batch, target
from PIL import Image

from rst.detectors import BackboneSettings, DetectionSettings, Detector, ProposalSettings, atss, faster_rcnn

ONE_OF_EACH = list({case.detector: case for case in reversed(CASES)}.values())
IMAGE = torch.full((3, 32, 48), 0.5)
BOX = [4.0, 4, 20, 20]

# Images -> error, words.
WRONG_IMAGES: dict[str, tuple[Any, type[Exception], str]] = {
    "an array": ([np.zeros((3, 32, 32), np.float32)], TypeError, r"images\[0\] is numpy.ndarray, not a torch.Tensor"),
    "arrays in one": (np.zeros((2, 3, 32, 32), np.float32), TypeError, r"images\[0\] is numpy.ndarray"),
    "a list": ([[[0.5] * 8] * 8], TypeError, r"images\[0\] is list"),
    "an image of PIL": ([Image.new("RGB", (32, 32))], TypeError, r"images\[0\] is PIL.Image, not a torch.Tensor"),
    "one of two": ([IMAGE, None], TypeError, r"images\[1\] is None"),
    "file names": (["a.jpg"], TypeError, r"images\[0\] is str"),
    "a file name": ("a.jpg", TypeError, "images is str"),
    "a dict": ({"image": IMAGE}, TypeError, "images is dict"),
    "nothing": (None, TypeError, "images is None"),
    "a number": (3, TypeError, "images is int"),
    "a generator": ((image for image in [IMAGE]), TypeError, "images is generator"),
    "a single image": (IMAGE, ValueError, r"images\[0\] has shape \(32, 48\), not \(3, height, width\)"),
    "channels last": ([IMAGE.permute(1, 2, 0)], ValueError, r"\(32, 48, 3\), not .*permute\(2, 0, 1\)"),
    "four channels": ([torch.zeros(4, 32, 32)], ValueError, r"images\[0\] has shape \(4, 32, 32\)"),
    "grey": ([torch.zeros(32, 32)], ValueError, r"images\[0\] has shape \(32, 32\)"),
    "bytes": ([torch.zeros(3, 32, 32, dtype=torch.uint8)], ValueError, r"images\[0\] is torch.uint8"),
    "integers": ([torch.zeros(3, 32, 32, dtype=torch.int64)], ValueError, r"images\[0\] is torch.int64"),
    "booleans": ([torch.zeros(3, 32, 32, dtype=torch.bool)], ValueError, r"images\[0\] is torch.bool"),
    "complex": ([torch.zeros(3, 32, 32, dtype=torch.complex64)], ValueError, r"images\[0\] is torch.complex64"),
    "0 to 255": ([IMAGE, 255 * IMAGE], ValueError, r"images\[1\] holds 127.5; .* in \[0, 1\]; divide by 255"),
    "negative": ([-255 * IMAGE], ValueError, r"images\[0\] holds -127.5; .* in \[0, 1\]$"),
    "infinite": ([IMAGE * torch.inf], ValueError, r"images\[0\] holds inf"),
    "another device": ([IMAGE.to("meta")], ValueError, r"images\[0\] is on meta, the detector on cpu"),
}

# Targets of one image -> error, words.
WRONG_TARGETS: dict[str, tuple[Any, type[Exception], str]] = {
    "one for all": (target(BOX), TypeError, "targets is dict, not a list"),
    "a number": (3, TypeError, "targets is int"),
    "boxes alone": ([torch.tensor([BOX])], TypeError, r"targets\[0\] is torch.Tensor, not a dict"),
    "an entry of COCO": ([[{"bbox": BOX}]], TypeError, r"targets\[0\] is list"),
    "arrays": ([{"boxes": np.array([BOX]), "labels": np.array([0])}], TypeError, r"\['boxes'\] is numpy.ndarray"),
    "lists": ([{"boxes": [BOX], "labels": [0]}], TypeError, r"targets\[0\]\['boxes'\] is list"),
    "a list of labels": ([target(BOX) | {"labels": [0]}], TypeError, r"targets\[0\]\['labels'\] is list"),
    "no labels": ([{"boxes": torch.tensor([BOX])}], ValueError, r"targets\[0\] has no key 'labels'"),
    "booleans": ([target(BOX) | {"boxes": torch.ones(1, 4).bool()}], ValueError, r"\['boxes'\] is torch.bool"),
    "halves": (
        [target(BOX) | {"boxes": torch.tensor([BOX]).half()}],
        ValueError,
        r"\['boxes'\] is torch.float16, which",
    ),
    "brain floats": (
        [target(BOX) | {"boxes": torch.tensor([BOX]).bfloat16()}],
        ValueError,
        r"\['boxes'\] is torch.bfl",
    ),
    "label C": ([target(BOX) | {"labels": torch.tensor([3])}], ValueError, r"\['labels'\] holds 3, .* \[0, 3\)"),
    "label -1": ([target(BOX) | {"labels": torch.tensor([-1])}], ValueError, r"\['labels'\] holds -1"),
    "small labels": ([target(BOX) | {"labels": torch.tensor([0], dtype=torch.int32)}], ValueError, "torch.int32"),
    "infinite": ([target([0.0, 0, torch.inf, 4])], ValueError, r"holds \[0.0, 0.0, inf, 4.0\], which is not finite"),
    "x swapped": ([target(BOX, [20.0, 4, 4, 20])], ValueError, r"targets\[0\]\['boxes'\] holds \[20.0, 4.0.*XYXY"),
    "y swapped": ([target([4.0, 20, 20, 4])], ValueError, r"holds \[4.0, 20.0, 20.0, 4.0\].*not \[x, y, width"),
    "a hair swapped": ([target([9.0, 9, 8.9, 20])], ValueError, "XYXY"),
    "another device": (
        [{k: v.to("meta") for k, v in target(BOX).items()}],
        ValueError,
        r"is on meta, its image on cpu",
    ),
}


def masked(targets: Any) -> Any:
    """The targets with a mask for each box, which detectors of masks need and others leave out."""
    if not isinstance(targets, list) or not all(isinstance(each, dict) and "boxes" in each for each in targets):
        return targets
    return [{"masks": torch.zeros(len(each["boxes"]), 32, 48, dtype=torch.bool)} | each for each in targets]


@pytest.fixture(scope="module", params=ONE_OF_EACH, ids=str)
def model(request: pytest.FixtureRequest) -> Detector:
    case: Case = request.param
    return case.build()


def methods(model: Detector) -> dict[str, Callable[[Any], Any]]:
    """Everything that takes images."""
    return {
        "forward in training": lambda images: model.train()(images, masked([target(BOX)])),
        "forward in evaluation": lambda images: model.eval()(images),
        "positives": lambda images: model.positives(images, masked([target(BOX)])),
        "as_seen": model.as_seen,
    }


@pytest.mark.parametrize("kind", WRONG_IMAGES)
def test_wrong_images_are_refused_by_name_in_every_method(model: Detector, kind: str):
    images, error, words = WRONG_IMAGES[kind]
    for call in methods(model).values():
        with pytest.raises(error, match=words):
            call(images)


@pytest.mark.parametrize("kind", WRONG_TARGETS)
def test_wrong_targets_are_refused_by_name_in_every_method(model: Detector, kind: str):
    targets, error, words = WRONG_TARGETS[kind]
    for call in (model.train(), model.positives):
        with pytest.raises(error, match=words):
            call([IMAGE], masked(targets))


def test_boxes_of_coco_are_refused_with_the_number_of_their_image(model: Detector):
    """[x, y, width, height] is read as corners: wherever x > width or y > height they are swapped."""
    images, targets = objects_batch()
    for each in targets:
        each["boxes"][:, 2:] -= each["boxes"][:, :2]
    with pytest.raises(ValueError, match=r"targets\[\d\]\['boxes'\] holds .*XYXY"):
        model.train()(images, targets)


def test_standardised_images_are_taken(model: Detector):
    model.eval()([(IMAGE - 0.45) / 0.22, -2.2 * torch.ones(3, 32, 32)])


def test_a_device_is_waited_for_in_the_first_call_only(model: Detector, monkeypatch: pytest.MonkeyPatch):
    """On a GPU looking at the pixels costs a wait; here a module that says it is elsewhere stands for one."""
    looked = []
    monkeypatch.setattr("rst.detectors.detector.check_range", lambda images: looked.append(len(images)))
    monkeypatch.setattr("rst.detectors.detector.check_images", lambda images, device: [Elsewhere()] * len(images))
    model._seen_images = False
    for _ in range(3):
        model._checked([IMAGE])
    assert looked == [1]


class Elsewhere:
    device = torch.device("cuda")


# What makes a detector, with the wrong value -> words.
WRONG_SETTINGS = {
    "num_classes": ([0, -1, 2.5, None], "num_classes="),
    "head_channels": ([0, -8, 1.5], "head_channels="),
    "delta": ([-1, 1e-30, float("nan"), "0.5"], "delta: expected 0, or a number from"),
    "detections": (
        [
            lambda: DetectionSettings(score_threshold=-1),
            lambda: DetectionSettings(nms_iou=1.5),
            lambda: DetectionSettings(limit=0),
            lambda: DetectionSettings(limit=True),
        ],
        "detections.",
    ),
    "backbone": ([lambda: BackboneSettings("resnet18", fpn_channels=0)], "backbone.fpn_channels=0 is not at least 1"),
}
OF_FASTER_RCNN = {
    "anchor_scale": ([0, -1, float("inf"), float("nan")], "anchor_scale="),
    "anchor_ratios": ([(), (1.0, -1.0), (0.0,), ("1",)], "anchor_ratios"),
    "proposals": (
        [
            lambda: ProposalSettings(train_pre_nms=0),
            lambda: ProposalSettings(test_limit=-1),
            lambda: ProposalSettings(nms_iou=-0.1),
        ],
        "proposals.",
    ),
}
OF_ATSS = {
    "octave_base_scale": ([0, -4.0, float("inf")], "octave_base_scale="),
    "scales_per_octave": ([0, 1.5], "scales_per_octave="),
    "candidates_per_level": ([0], "candidates_per_level=0"),
}


@pytest.mark.parametrize(
    ("make", "key", "value", "words"),
    [
        (make, key, value, words)
        for make, own in ((faster_rcnn, OF_FASTER_RCNN), (atss, OF_ATSS))
        for key, (values, words) in (WRONG_SETTINGS | own).items()
        for value in values
    ],
)
def test_wrong_settings_are_refused_where_the_detector_is_made(make, key, value, words):
    with pytest.raises(ValueError, match=words):
        make(**{"num_classes": 3, key: value() if callable(value) else value})
