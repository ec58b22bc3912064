"""`rst predict` on many images: what it keeps when it is stopped, names, ids, batches, COCO results."""

import json
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detection import CLASSES, VAL, prepare_data, training_arguments

from rst.cli.main import main
from rst.cli.predict import detect
from rst.data import images as reader
from rst.detectors import BackboneSettings, DetectionSettings, faster_rcnn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(training_arguments(data, output, "--trainer.max_epochs", "1")) == 0
    return output


@pytest.fixture
def photos(data: Path, tmp_path: Path) -> Path:
    """photos/{a,b,c,d}.png"""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, file in zip("abcd", sorted((data / "val").iterdir()), strict=True):
        shutil.copy(file, folder / f"{name}.png")
    return folder


def rst(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def before_reading(monkeypatch: pytest.MonkeyPatch, look: Callable[[Path], object]) -> None:
    """Call `look` with each image that is about to be read."""
    original = reader.read_image

    def read_image(path: Path, *arguments: Any, **options: Any) -> Any:
        look(path)
        return original(path, *arguments, **options)

    monkeypatch.setattr(reader, "read_image", read_image)


# What is kept


@pytest.mark.parametrize("layout", ["images", "coco"])
def test_the_files_are_valid_and_complete_at_any_moment(
    layout: str, capsys, monkeypatch, run: Path, photos: Path, tmp_path: Path
) -> None:
    output, counts = tmp_path / "out", []

    def look(path: Path) -> None:
        entries = read(output / ("images.json" if layout == "coco" else "predictions.json"))
        entries = entries["images"] if layout == "coco" else entries
        assert [entry["file_name"] for entry in entries] == [str(photos / f"{name}.png") for name in "abcd"][
            : len(entries)
        ]
        assert all((output / entry["drawing"]).is_file() for entry in entries)
        if layout == "coco":
            ids = [entry["id"] for entry in entries]
            assert [result["image_id"] for result in read(output / "predictions.json")] == np.repeat(
                ids, CLASSES
            ).tolist()
        counts.append(len(entries))

    before_reading(monkeypatch, look)
    monkeypatch.setattr("rst.cli.predictions.SHARE", float("inf"))  # write after each image
    rst(capsys, "predict", "--checkpoint", run, photos, "--output", output, "--format", layout, "--threshold", 0)
    assert counts == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), struct.error("wrong type"), RuntimeError("of the network")])
def test_whatever_stops_it_the_images_before_are_kept(
    error: BaseException, capsys, monkeypatch, run: Path, photos: Path, tmp_path: Path
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    def look(path: Path) -> None:
        if path.name == "c.png" and isinstance(error, RuntimeError):  # of the detector, not of the image
            monkeypatch.setattr("rst.cli.predict.detect", fail)
        elif path.name == "c.png":
            raise error

    before_reading(monkeypatch, look)
    monkeypatch.setattr("rst.cli.predictions.SHARE", 1e-9)  # not once on the way
    code = {KeyboardInterrupt: 130, struct.error: 2, RuntimeError: 1}[type(error)]
    message = rst(capsys, "predict", "--checkpoint", run, photos, "--output", tmp_path / "out", code=code)
    kept = [Path(entry["file_name"]).stem for entry in read(tmp_path / "out" / "predictions.json")]
    if code == 2:  # one image's own fault: it is named at the end, and all others are there
        assert kept == ["a", "b", "d"]
        assert f"1 of 4 images cannot be read:\n  {photos / 'c.png'}: " in message
        assert "wrong type" in message
    else:
        assert kept == ["a", "b"]
    if code == 130:
        assert "interrupted; the predictions of 2 of 4 images are in" in message


def test_termination_is_an_interrupt(capsys, monkeypatch, run: Path, photos: Path, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def look(path: Path) -> None:
        if path.name == "d.png":
            assert signal.getsignal(signal.SIGTERM) != handler, "or this process would end here"
            signal.raise_signal(signal.SIGTERM)

    before_reading(monkeypatch, look)
    message = rst(capsys, "predict", "--checkpoint", run, photos, "--output", tmp_path / "out", code=130)
    assert "the predictions of 3 of 4 images are in" in message
    assert len(read(tmp_path / "out" / "predictions.json")) == 3
    assert signal.getsignal(signal.SIGTERM) == handler


# Names


def test_predictions_name_their_drawings_and_drawings_their_images(
    capsys, run: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "of day").mkdir()
    shutil.copy(photos / "a.png", photos / "of day" / "a.png")
    Image.open(photos / "a.png").save(photos / "a.jpg")
    output = tmp_path / "out"
    rst(capsys, "predict", "--checkpoint", run, photos, "--output", output)
    entries = read(output / "predictions.json")
    named = {entry["drawing"]: Path(entry["file_name"]) for entry in entries}
    assert set(named) == {"a.jpg.png", "a.png.png", "b.png", "c.png", "d.png", "of day/a.png"}
    assert {str(file.relative_to(output)) for file in output.rglob("*.png")} == set(named)
    for drawing, file in named.items():
        with Image.open(output / drawing) as image:
            assert image.info["Source"] == str(file)


def test_only_drawings_are_replaced(capsys, run: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ("predict", "--checkpoint", run, photos, "--output", output)
    rst(capsys, *command)
    (output / "predictions.json").unlink()  # as after a kill before it was written
    rst(capsys, *command)
    rst(capsys, *command, "--format", "coco")
    rst(capsys, *command)
    for name in ("c.png", "predictions.json"):
        kept = (output / name).read_bytes()
        foreign = (photos / "a.png").read_bytes() if name == "c.png" else b'[{"image_id": 1}]'
        (output / name).write_bytes(foreign)
        assert f"would replace {output / name}, which is not of rst predict" in rst(capsys, *command, code=2)
        assert (output / name).read_bytes() == foreign
        (output / name).write_bytes(kept)


# Ids, COCO results


def test_coco_results_are_those_of_the_evaluation(capsys, data: Path, run: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "val.json"
    output = tmp_path / "out"
    chosen = ("--format", "coco", "--annotations", annotations)
    rst(capsys, "predict", "--checkpoint", run, data / "val", "--output", output, *chosen)
    rst(capsys, "evaluate", "--checkpoint", run, "--output", tmp_path / "scores")

    def by_image(results: list[dict[str, Any]]) -> list[Any]:
        return sorted(results, key=lambda result: (result["image_id"], -result["score"]))

    expected = read(tmp_path / "scores" / "detections.json")
    assert by_image(read(output / "predictions.json")) == by_image(expected)
    rst(
        capsys, "evaluate", "--detections", output / "predictions.json", "--annotations", annotations,
        "--output", tmp_path / "again.json",
    )  # fmt: skip
    assert read(tmp_path / "again.json")["AP"] == read(tmp_path / "scores" / "metrics.json")["AP"]


def test_without_annotations_ids_count_the_images_and_are_the_checkpoints(capsys, run, photos, tmp_path) -> None:
    (photos / "b.png").write_bytes(b"no image")
    output = tmp_path / "out"
    command = ("predict", "--checkpoint", run, photos, "--output", output, "--format", "coco")
    rst(capsys, *command, code=2)
    content = read(output / "images.json")
    assert [(image["id"], Path(image["file_name"]).name) for image in content["images"]] == [
        (1, "a.png"),
        (3, "c.png"),
        (4, "d.png"),
    ]
    assert {category["id"]: category["name"] for category in content["categories"]}[11] == "crescent"
    results = read(output / "predictions.json")
    assert {result["image_id"] for result in results} == {1, 3, 4}
    assert {result["category_id"] for result in results} == {1, 2, 4, 7, 11, 16}


def test_annotated_ids_in_the_entries_of_images(capsys, data: Path, run: Path, tmp_path: Path) -> None:
    chosen = ("--annotations", data / "annotations" / "val.json", "--threshold", 0)
    rst(capsys, "predict", "--checkpoint", run, data / "val", "--output", tmp_path / "out", *chosen)
    known = {image["file_name"]: image["id"] for image in read(data / "annotations" / "val.json")["images"]}
    for entry in read(tmp_path / "out" / "predictions.json"):
        assert entry["image_id"] == known[Path(entry["file_name"]).name]
        assert {prediction["category_id"] for prediction in entry["predictions"]} == {1, 2, 4, 7, 11, 16}


def test_annotations_of_other_classes_are_refused(capsys, data: Path, run: Path, tmp_path: Path) -> None:
    content = read(data / "annotations" / "val.json")
    content["categories"][0]["name"] = "plate"
    (tmp_path / "plates.json").write_text(json.dumps(content))
    chosen = ("--annotations", tmp_path / "plates.json", "--output", tmp_path / "out")
    message = rst(capsys, "predict", "--checkpoint", run, data / "val", *chosen, code=2)
    assert "plates.json: its categories (plate, star" in message
    assert not (tmp_path / "out").exists()


# Batches


def test_batches_change_no_result(capsys, run: Path, photos: Path, tmp_path: Path) -> None:
    """The tiny detector looks at each image alone: any size of batch, and an image that is missing from one."""
    (photos / "b.png").write_bytes(b"no image")
    entries = []
    for size in (1, 2, 3, 100):
        output = tmp_path / f"out{size}"
        rst(capsys, "predict", "--checkpoint", run, photos, "--output", output, "--batch-size", size, code=2)
        entries.append(read(output / "predictions.json"))
    assert len(entries[0]) == VAL - 1
    assert all(entry == entries[0] for entry in entries)
    common = ("predict", "--checkpoint", run, photos, "--output", tmp_path / "out")
    assert "--batch-size must be at least 1, got 0" in rst(capsys, *common, "--batch-size", 0, code=2)


def test_a_batch_of_one_size_gives_what_each_image_gives() -> None:
    torch.manual_seed(0)
    backbone = BackboneSettings(name="mobilenet_v2", weights=None, fpn_channels=8)
    detections = DetectionSettings(score_threshold=0.0, limit=10)
    model = faster_rcnn(3, backbone=backbone, head_channels=8, detections=detections).eval()
    data = SimpleNamespace(val_transforms=lambda image, target: (image.float() / 255, target))
    trained: Any = SimpleNamespace(model=model, settings=SimpleNamespace(data=data))
    images = list(np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8))
    together = detect(trained, images, "cpu", 0.0)
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(trained, [image], "cpu", 0.0)
        torch.testing.assert_close(found["scores"], alone["scores"], rtol=0, atol=1e-5)
        assert len(found["boxes"]) == 10


def test_progress_is_counted(capsys, monkeypatch, run: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", "--checkpoint", run, photos, "--output", tmp_path / "out")
    rst(capsys, *command)
    assert capsys.readouterr().err == "", "a file or pipe gets no bar"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    capsys.readouterr()
    assert main(list(map(str, command))) == 0
    assert "/4 [" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setattr("rst.cli.progress.LINES_EVERY", 0)
    assert main(list(map(str, command))) == 0
    assert "rst: images: 3 of 4" in capsys.readouterr().err
