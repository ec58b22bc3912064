"""Masks that are missing or wrong, at every door: a clear line that names file and id, or the key; nothing is left."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_detection import prepare_data, training_arguments

from rst.cli.main import main
from rst.data import CocoDetection, DetectionData
from rst.data.samples import shapes

TRAIN, VAL = "annotations/train.json", "annotations/val.json"
MASKS = ("--data.masks", "true")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def lvis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvis") / "set"
    shapes.prepare(folder, train=6, val=3, side=64, seed=1, variant="lvis", classes=6)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(train(data, output, *MASKS, "--trainer.max_epochs", "1")) == 0
    return output


def model(data: Path) -> tuple[str, ...]:
    place = ("--model.annotations", str(data / VAL), "--model.images", str(data / "val"))
    return ("--model", "oracle_detector.oracle", "--model.num_classes", "6", *place)


def train(data: Path, output: Path, *more: str) -> list[str]:
    same_size = ("--data.short_sides", "[64]", "--data.max_side", "64")
    return training_arguments(data, output, *model(data), *same_size, *more)


def experiment(data: Path, folder: Path, **more: Any) -> Path:
    """The same as a configuration."""
    files = {"train_annotations": TRAIN, "train_images": "train", "val_annotations": VAL, "val_images": "val"}
    arguments = {"num_classes": 6, "annotations": str(data / VAL), "images": str(data / "val")}
    content = {
        "data": {key: str(data / name) for key, name in files.items()} | {"short_sides": [64], "max_side": 64} | more,
        "model": {"class_path": "oracle_detector.oracle", "init_args": arguments},
    }
    (folder / "oracle.yaml").write_text(json.dumps(content))
    return folder / "oracle.yaml"


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    text = capsys.readouterr()
    if code == 2:
        assert text.err.count("\n") <= 2, text.err
        assert "Traceback" not in text.err
    return text.err + text.out


@pytest.mark.parametrize("door", ["train", "show", "check", "resume"])
def test_a_detector_of_masks_and_data_without_them(data, run, tmp_path, capsys, door):
    config = experiment(data, tmp_path)
    output = tmp_path / "out"
    doors = {
        "train": train(data, output),
        "show": ["data", "show", "--config", config, "--output", output],
        "check": ["data", "check", data / TRAIN, data / "train", "--config", config, "--output", output],
        "resume": ["train", "--resume", run, "--data.masks", "false", "--trainer.max_epochs", "2"],
    }
    before = (run / "config.yaml").read_bytes(), sorted(run.rglob("*"))
    said = complaint(capsys, *doors[door])
    assert "data.masks is false, but Oracle detects masks and has to learn them: --data.masks true" in said
    assert not output.exists()
    assert (run / "config.yaml").read_bytes() == before[0]
    assert sorted(run.rglob("*")) == before[1]


def without_key(entry: dict[str, Any]) -> None:
    del entry["segmentation"]


def empty(entry: dict[str, Any]) -> None:
    entry["segmentation"] = []


def two_points(entry: dict[str, Any]) -> None:
    entry["segmentation"] = [[1, 2, 30, 40]]


def of_another_size(entry: dict[str, Any]) -> None:
    entry["segmentation"] = {"size": [9, 7], "counts": [63]}


def odd(entry: dict[str, Any]) -> None:
    entry["segmentation"] = [[1, 2, 30, 40, 5]]


def broken(entry: dict[str, Any]) -> None:
    entry["segmentation"] = {"size": entry["segmentation_size"], "counts": [5]}


FAULTS = {
    without_key: "has no key 'segmentation', which masks need",
    empty: "no polygon of three points",
    two_points: "no polygon of three points",
    of_another_size: "run lengths have size [9, 7], the image",
    odd: "has 5 numbers, an odd number",
    broken: "run lengths do not add up",
}


def spoil(source: Path, folder: Path, change) -> tuple[Path, int]:
    """The file with a fault in the mask of one object, and the id of that annotation."""
    content = json.loads(source.read_text())
    entry = [found for found in content["annotations"] if not found.get("iscrowd")][2]
    image = next(found for found in content["images"] if found["id"] == entry["image_id"])
    entry["segmentation_size"] = [image["height"], image["width"]]
    change(entry)
    path = folder / f"spoilt_{source.name}"
    path.write_text(json.dumps(content))
    return path, entry["id"]


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__)
def test_a_faulty_mask_stops_training_showing_and_checking(data, tmp_path, capsys, change):
    file, number = spoil(data / TRAIN, tmp_path, change)
    output, config = tmp_path / "out", experiment(data, tmp_path, masks=True)
    swap = ("--data.train_annotations", file)
    for door in (
        train(data, output, *MASKS, *map(str, swap)),
        ["data", "show", "--config", config, "--output", output, *swap],
    ):
        said = complaint(capsys, *door)
        assert str(file) in said
        assert f"annotation {number}" in said
        assert FAULTS[change] in said
        assert not output.exists()
    for way in (["--masks"], ["--config", config]):  # the experiment's own data.masks is true
        said = complaint(capsys, "data", "check", file, data / "train", *way, code=1)
        assert f"annotation {number}" in said


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__)
def test_a_faulty_mask_of_an_lvis_file(lvis, tmp_path, capsys, change):
    file, number = spoil(lvis / TRAIN, tmp_path, change)
    with pytest.raises(ValueError, match=rf"spoilt_train.json: .*annotation {number}\b"):
        CocoDetection(file, lvis, masks=True)
    said = complaint(capsys, "data", "check", file, lvis, "--masks", code=1)
    assert f"annotation {number}" in said


@pytest.mark.parametrize("change", [without_key, of_another_size, odd, broken], ids=lambda change: change.__name__)
def test_a_faulty_mask_of_the_truth_stops_before_the_detector_works(data, lvis, run, tmp_path, capsys, change):
    file, number = spoil(data / VAL, tmp_path, change)
    output, swap = tmp_path / "out", ("--data.val_annotations", file)
    (tmp_path / "none.json").write_text("[]")
    of_lvis, its_number = spoil(lvis / VAL, tmp_path / "..", change)
    for door, place, which in (
        (train(data, output, *MASKS, *map(str, swap)), file, number),
        (["train", "--resume", run, *swap, "--trainer.max_epochs", "2"], file, number),
        (["evaluate", "--checkpoint", run, "--iou-type", "segm", "--output", output, *swap], file, number),
        *(
            (
                ["evaluate", "--detections", tmp_path / "none.json", "--annotations", path, "--iou-type", "segm",
                 "--output", output],
                path,
                own,
            )
            for path, own in ((file, number), (of_lvis, its_number))
        ),
    ):  # fmt: skip
        said = complaint(capsys, *door)
        assert str(place) in said
        assert f"annotation {which}" in said
        assert not output.exists()


def test_an_object_that_no_mask_can_match_is_told(data, tmp_path, capsys):
    (tmp_path / "none.json").write_text("[]")
    file, number = spoil(data / VAL, tmp_path, two_points)
    command = ["evaluate", "--detections", tmp_path / "none.json", "--annotations", file, "--iou-type", "segm"]
    said = complaint(capsys, *command, code=0)
    assert f"{file}: 1 object has a mask without a pixel (annotation {number}): it counts as missed" in said
    command[-1] = "bbox"
    assert "mask" not in complaint(capsys, *command, code=0)


def test_validation_images_are_shown_with_their_masks(data):
    files = (data / TRAIN, data / "train", data / VAL, data / "val")
    shown = DetectionData(*files, short_sides=[64], max_side=64, workers=0, masks=True)
    shown.val_masks = True
    shown.setup("validate")
    assert all("masks" in target for _, targets in shown.val_dataloader() for target in targets)
