"""Detections that name their image by its file: matched to the file names of the annotations, and said so."""

import json

import pytest

from rst.cli.main import main
from rst.data import DataError
from rst.evaluation import evaluate
from rst.evaluation.report import notes

NAMES = ["train/a 1.jpg", "train/000012.jpg", "val/b.png"]
IDS = [30, 5, 17]


def truth(folder, names=NAMES):
    content = {
        "images": [
            {"id": image_id, "file_name": name, "height": 20, "width": 30}
            for image_id, name in zip(IDS, names, strict=True)
        ],
        "annotations": [
            {"id": k, "image_id": image_id, "category_id": 1, "bbox": [k, 1, 8, 8]} for k, image_id in enumerate(IDS, 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return file


def results(image_ids):
    return [
        {"image_id": image_id, "category_id": 1, "bbox": [k, 1, 8, 8], "score": 0.5}
        for k, image_id in enumerate(image_ids, 1)
    ]


@pytest.mark.parametrize(
    "image_ids",
    [
        NAMES,
        ["train/a 1", "train/000012", "val/b"],
        ["a 1.jpg", "000012.jpg", "b.png"],
        ["a 1", "000012", "b"],
        ["a 1", 12, "b"],  # as some tools write the stems that are numbers
        ["train\\a 1.jpg", "TRAIN/000012.JPG", "val/b.png "],
        ["/data/train/a%201.jpg", "./train/000012.jpg", "data/val/b.png"],
    ],
    ids=str,
)
def test_files_stand_for_ids(tmp_path, image_ids):
    file = truth(tmp_path)
    evaluation = evaluate(file, results(image_ids))
    assert evaluation.metrics["AP"] == 1.0
    (note,) = notes(evaluation)
    assert "image_id is a file name in results, matched to the file names of" in note
    assert notes(evaluate(file, results(IDS))) == []


def test_numbers_that_are_stems_and_not_ids(tmp_path):
    file = truth(tmp_path, ["x/0001.jpg", "2.jpg", "000030.jpg"])
    evaluation = evaluate(file, results([1, 2, 30]))  # 30 is the id of the first, and the stem of the third
    assert evaluation.metrics["AP"] == 1.0
    (note,) = notes(evaluation)
    assert "image_id is a number that the file is named by in results" in note
    with pytest.raises(DataError, match=r"image_id 1 is no image of the ground truth"):
        evaluate(file, results([1, 99, 30]))
    assert notes(evaluate(file, results(IDS))) == [], "ids are ids"


@pytest.mark.parametrize(
    ("names", "image_id", "message"),
    [
        (["a.jpg", "a.png", "b.png"], "a", r"results\[0\]: image_id .* ambiguous: 'a' could be 'a.jpg' or 'a.png'"),
        (["x/a.jpg", "y/a.jpg", "b.png"], "a.jpg", r"'a.jpg' could be 'x/a.jpg' or 'y/a.jpg'"),
        (["a.jpg", "a.jpg", "b.png"], "a.jpg", r"image_id 'a.jpg' is the file of images \[5, 30\]: ambiguous"),
        (NAMES, "c.png", r"image_id must be an integer, is 'c.png'; no image file of .*json has that name"),
        (["a.jpg", "b.png", "c.png"], "", r"image_id must be an integer, is ''"),
    ],
)
def test_names_of_no_image_or_of_several_are_refused(tmp_path, names, image_id, message):
    with pytest.raises(DataError, match=message):
        evaluate(truth(tmp_path, names), results([image_id]))


def test_two_names_for_one_image_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'x/b.png' could be 'val/b.png', as could another name"):
        evaluate(truth(tmp_path), results(["x/b.png", "y/b.png"]))


def test_the_command_says_so_in_one_line(tmp_path, capsys):
    detections = tmp_path / "detections.json"
    detections.write_text(json.dumps(results(["a 1", "000012", "b"])))
    assert main(["evaluate", "--detections", str(detections), "--annotations", str(truth(tmp_path))]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "image_id" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"rst: note: image_id is a file name in {detections}, matched to the file names of ")
