"""The procedural set in LVIS's form: what its files say, and what they leave unsaid."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rst.data.samples import shapes, shapes_lvis

SIDE, CLASSES = 96, 120
COUNTS = {"train": 60, "val": 12}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvis") / "set"
    shapes.prepare(folder, **COUNTS, side=SIDE, seed=5, variant="lvis", classes=CLASSES)
    return folder


def content(folder: Path, split: str) -> dict:
    return json.loads((folder / f"annotations/{split}.json").read_text())


def test_the_same_seed_gives_the_same_set_and_the_recipe_finds_it_again(tmp_path, prepared):
    again = tmp_path / "again"
    summary = shapes.prepare(again, **COUNTS, side=SIDE, seed=5, variant="lvis", classes=CLASSES)
    files = [path.relative_to(prepared) for path in prepared.rglob("*") if path.is_file()]
    assert len(files) == 60 + 12 + 3
    assert all((again / file).read_bytes() == (prepared / file).read_bytes() for file in files)
    assert shapes.prepare(again, **COUNTS, side=SIDE, seed=5, variant="lvis", classes=CLASSES) == summary
    with pytest.raises(ValueError, match=r"other settings \(classes 120 -> 300\)"):
        shapes.prepare(again, **COUNTS, side=SIDE, seed=5, variant="lvis")


def test_there_are_hundreds_of_different_classes():
    assert shapes_lvis.MOST_CLASSES == len(set(shapes_lvis.NAMES)) == 300


def test_images_are_found_by_coco_url_under_one_root_and_the_validation_set_in_both_folders(prepared):
    for split, count in COUNTS.items():
        images = content(prepared, split)["images"]
        assert len(images) == count
        assert all("file_name" not in image for image in images)
        places = [image["coco_url"].removeprefix(shapes_lvis.URL + "/") for image in images]
        assert all((prepared / place).is_file() for place in places)
        assert {place.split("/")[0] for place in places} == ({"train"} if split == "train" else {"train", "val"})
    ids = [image["id"] for split in COUNTS for image in content(prepared, split)["images"]]
    assert ids == list(range(1, 73)), "no id is in both splits"


def test_a_long_tail_with_frequencies_that_the_training_split_has(prepared):
    train, val = content(prepared, "train"), content(prepared, "val")
    assert train["categories"] == val["categories"]
    assert len(train["categories"]) == CLASSES
    instances = Counter(a["category_id"] for a in train["annotations"])
    images = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in train["annotations"]})
    for category in train["categories"]:
        assert category["instance_count"] == instances[category["id"]]
        assert category["image_count"] == images[category["id"]]
        assert category["frequency"] == ("r" if images[category["id"]] <= 10 else "c")
    counts = [category["image_count"] for category in train["categories"]]
    assert counts[0] > 30
    assert sum(count <= 2 for count in counts) > CLASSES / 4


def test_frequency_is_bounded_as_in_lvis(monkeypatch):
    annotations = [{"image_id": i, "category_id": c} for c, n in ((1, 10), (2, 11), (3, 101)) for i in range(n)] * 2
    found = shapes_lvis._categories(annotations, 4)
    assert [category["frequency"] for category in found] == ["r", "c", "f", "r"]
    assert [category["image_count"] for category in found] == [10, 11, 101, 0]
    assert [category["instance_count"] for category in found] == [20, 22, 202, 0]


def test_what_an_image_says_of_a_class_is_true_of_what_is_painted(prepared):
    said_of = {"all": 0, "some": 0, "absent": 0, "unsaid": 0}
    for k, split in enumerate(COUNTS):
        data = content(prepared, split)
        for index, image in enumerate(data["images"]):
            _, painted = shapes_lvis.draw_image(index, SIDE, [5, 2 + k], CLASSES)
            there = Counter(a["category_id"] for a in painted)
            said = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            told = Counter(a["category_id"] for a in said)
            boxes = [(a["category_id"], a["bbox"]) for a in painted]
            assert all((a["category_id"], a["bbox"]) in boxes for a in said)
            for category_id in range(1, CLASSES + 1):
                if category_id in image["neg_category_ids"]:
                    assert there[category_id] == 0
                    said_of["absent"] += 1
                elif category_id in image["not_exhaustive_category_ids"]:
                    assert 0 < told[category_id] < there[category_id]
                    said_of["some"] += 1
                elif told[category_id]:
                    assert told[category_id] == there[category_id]
                    said_of["all"] += 1
                else:
                    said_of["unsaid"] += there[category_id] > 0
    assert min(said_of.values()) > 5, f"every case occurs: {said_of}"


def test_ids_are_unique_and_colours_are_those_of_the_names(prepared):
    data = content(prepared, "train")
    assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
    pixels, found = shapes_lvis.draw_image(0, SIDE, [5, 2], CLASSES)
    assert pixels.dtype == np.uint8
    assert found
    assert all("iscrowd" not in annotation for annotation in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "voc"}, r"variant must be 'coco' or 'lvis', got 'voc'"),
        ({"variant": "lvis", "classes": 0}, r"classes must lie in \[1, 300\].* got 0 with 'lvis'"),
        ({"variant": "lvis", "classes": 301}, r"got 301 with 'lvis'"),
        ({"classes": 10}, r"belongs to the variant 'lvis' \(the variant 'coco' has 6\), got 10 with 'coco'"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        shapes.prepare(tmp_path / "set", **options)
