"""A training set without one object to learn from is refused, a validation set without one has no score."""

from pathlib import Path
from typing import Any

import pytest
from coco_files import corrupted_copy

from rst.data import DataError, DetectionData
from rst.data.samples import shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learnable") / "shapes"
    shapes.prepare(folder, train=4, val=6, side=64, seed=4)
    return folder


def _nothing(content: dict[str, Any]) -> None:
    content["annotations"] = []


def _crowds(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def _ignored(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["ignore"] = 1


def _thin(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 0, 5]


def _flat(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 9, 1]


# What leaves nothing to learn -> settings under which it does, words of the message.
NOTHING_TO_LEARN = {
    "no annotations": (_nothing, {}, "it has 0 annotations$"),
    "no annotations, empty images left out": (_nothing, {"keep_empty": False}, "it has 0 annotations$"),
    "crowds": (_crowds, {}, r"it has (\d+) annotations, \1 crowds or marked 'ignore'"),
    "ignored": (_ignored, {"keep_empty": False}, r"it has (\d+) annotations, \1 crowds or marked 'ignore'"),
    "left out": (_thin, {"faulty_boxes": "leave_out"}, r"\d+ left out: less than one pixel"),
    "too small": (lambda content: None, {"min_box_side": 4000.0}, r"\d+ smaller than data.min_box_side 4000"),
    "too small once resized": (_flat, {"short_sides": [8]}, r"\d+ thinner than a pixel once resized"),
    "squeezed": (_flat, {"short_sides": [8], "keep_ratio": False}, r"\d+ thinner than a pixel once resized"),
}


@pytest.mark.filterwarnings("ignore::rst.data.DataWarning")
@pytest.mark.parametrize("kind", NOTHING_TO_LEARN)
def test_a_training_set_without_one_object_to_learn_from_is_refused(folder, tmp_path, kind):
    corrupt, settings, words = NOTHING_TO_LEARN[kind]
    empty = corrupted_copy(folder, tmp_path, corrupt)
    files = (empty, folder / "val", folder / "annotations/val.json", folder / "val")
    with pytest.raises(DataError, match=rf"corrupted.json: there is no object to learn from: .*{words}"):
        DetectionData(*files, **settings).setup("fit")


def test_one_object_is_enough(folder, tmp_path):
    def keep_one(content: dict[str, Any]) -> None:
        _crowds(content)
        content["annotations"][0]["iscrowd"] = 0

    one = corrupted_copy(folder, tmp_path, keep_one)
    data = DetectionData(one, folder / "val", folder / "annotations/val.json", folder / "val")
    data.setup("fit")
    data.require_truth()


@pytest.mark.parametrize("corrupt", [_nothing, _crowds, _ignored])
def test_a_validation_set_without_one_object_has_no_score(folder, tmp_path, corrupt):
    empty = corrupted_copy(folder, tmp_path, corrupt)
    data = DetectionData(folder / "annotations/train.json", folder / "train", empty, folder / "val")
    data.setup("fit")
    with pytest.raises(DataError, match=r"corrupted.json: there is no object to find.*--trainer.limit_val_batches 0"):
        data.require_truth()
