"""How images and names are read, by key: stored with a run, the same for every command, overridden where asked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_detection import prepare_data, training_arguments

from rst.cli.config import parse_config
from rst.cli.main import main
from rst.cli.trained import load_trained
from rst.data.images import MAX_PIXELS, Decoding

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A set whose annotations name their files as another system does, with photographs that lie on their side."""
    data = prepare_data(tmp_path_factory.mktemp("data") / "shapes")
    for split in ("train", "val"):
        file = data / "annotations" / f"{split}.json"
        content = json.loads(file.read_text())
        (data / split / "deep").mkdir()
        for entry in content["images"]:
            shutil.move(data / split / entry["file_name"], data / split / "deep" / entry["file_name"])
            entry["file_name"] = f"DEEP\\{entry['file_name']}"
        file.write_text(json.dumps(content))
    return data


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """40 x 64 stored pixels, 64 x 40 upright."""
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    keys = ("--data.file_names", "forgiving", "--data.exif", "stored", "--data.max_pixels", "6000")
    with pytest.warns(match="image files were found with / for"):
        assert main(training_arguments(data, output, *keys, "--trainer.max_epochs", "1")) == 0
    return output


def said(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_a_training_offers_the_match(capsys, data, tmp_path):
    message = said(capsys, *training_arguments(data, tmp_path / "run"), code=2)
    assert "4 of 4 would match with / for \\ and in another case: --data.file_names forgiving" in message
    assert "Traceback" not in message


def test_a_run_keeps_its_settings(run):
    trained = load_trained(run, None, [])
    assert trained.settings.data.decoding == Decoding("stored", 6000)
    assert trained.settings.data.file_names == "forgiving"
    assert load_trained(run, None, ["--data.max_pixels", "null"]).settings.data.decoding == Decoding("stored", None)


@pytest.mark.filterwarnings("ignore:.*image files were found:rst.data.DataWarning")
def test_evaluation_and_drawn_batches_find_the_images_too(capsys, data, run, tmp_path):
    assert "AP50" in said(capsys, "evaluate", "--checkpoint", run, "--output", tmp_path / "evaluation")
    shown = said(
        capsys, *("data", "show", "--config", run / "config.yaml", "--output", tmp_path / "batches", "--batches", 1)
    )
    assert "batch_000.png" in shown


def test_prediction_reads_as_the_run_did_unless_told_otherwise(capsys, run, photo, tmp_path):
    sizes = {}
    for name, more in {"stored": [], "upright": ["--data.exif", "upright"]}.items():
        said(capsys, "predict", "--checkpoint", run, photo, "--output", tmp_path / name, *more)
        (entry,) = json.loads((tmp_path / name / "predictions.json").read_text())
        sizes[name] = entry["height"], entry["width"]
    assert sizes == {"stored": (40, 64), "upright": (64, 40)}
    message = said(
        capsys,
        *("predict", "--checkpoint", run, photo, "--output", tmp_path / "none", "--data.max_pixels", "2559"),
        code=2,
    )
    assert "photo.png: has 64x40 = 2,560 pixels, max_pixels is 2,559" in message
    assert "data.max_pixels" in message


def test_prediction_names_what_it_skips_once(capsys, run, photo, tmp_path):
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(photo, folder / "photo.png")
    for name in ("a.txt", "deep/b.TXT", "c.gif", "deep/README"):
        (folder / name).touch()
    printed = said(capsys, "predict", "--checkpoint", run, folder, "--output", tmp_path / "out")
    assert printed.count("skipped") == 1
    assert "2 .txt, 1 .gif, 1 without a suffix" in printed


def test_the_check_takes_the_same_settings(capsys, data, run):
    common = ("data", "check", data / "annotations" / "train.json", data / "train")
    assert "12 of 12 would match with / for \\" in said_by_check(capsys, *common, code=1)
    printed = said_by_check(capsys, *common, "--file-names", "forgiving", "--decode")
    assert "12 of 12 image files were found" in printed
    assert "0 errors, 1 warning" in printed, "of the crowds alone"
    assert "max_pixels is 9" in said_by_check(capsys, *common, "--file-names", "forgiving", "--max-pixels", "9", code=1)


def said_by_check(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().out


def test_the_check_warns_of_turns_as_set(capsys, photo, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": photo.name, "height": 40, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    common = ("data", "check", file, photo.parent)
    assert "warning: EXIF orientation not applied (1)" in said_by_check(capsys, *common)
    assert "no faults found" in said_by_check(capsys, *common, "--exif", "stored", "--max-pixels", "null")


def test_names_that_a_terminal_cannot_show_stop_nothing(capsys, photo, tmp_path):
    content = {
        "images": [{"id": 2**70, "file_name": "\ud800.png", "height": 40, "width": 64}],
        "annotations": [],
        "categories": [{"id": 1, "name": "\udfff"}],
    }
    file, report = tmp_path / "instances.json", tmp_path / "report.json"
    file.write_text(json.dumps(content))
    assert main(["data", "check", str(file), str(photo.parent), "--output", str(report)]) == 1
    assert json.loads(report.read_text())["errors"] == 3, "the id, the name, and no object to learn from"
    capsys.readouterr()


def test_the_keys_have_their_defaults():
    _, settings = parse_config(training_arguments(Path("data"), Path("run"))[3:])
    assert (settings.data.exif, settings.data.max_pixels, settings.data.file_names) == ("upright", MAX_PIXELS, "exact")
