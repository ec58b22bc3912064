"""One rule for "is this an LVIS file?": the check and the evaluation agree, also on files that have only some keys."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rst.coco.lvis import is_lvis
from rst.data import DataError
from rst.data.check import check_annotations
from rst.evaluation import evaluate

LISTS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}


def written(folder: Path, frequencies: list[str | None], lists: list[dict[str, Any]]) -> Path:
    """A file with one category per frequency and one image per entry of `lists`, and the images beside it."""
    images = []
    for k, own in enumerate(lists, 1):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": 40, "width": 60, **own})
    categories = [
        {"id": k, "name": f"class {k}"} | ({"frequency": frequency} if frequency else {})
        for k, frequency in enumerate(frequencies, 1)
    ]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400}]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return file


@pytest.mark.parametrize(
    ("frequencies", "lists", "federated", "sound"),
    [
        (["r", "f"], [LISTS, LISTS], True, True),
        (["r", None], [LISTS, LISTS], True, False),  # one category without a frequency
        (["r", "f"], [LISTS, {}], True, False),  # one image without lists
        (["r", "f"], [{"neg_category_ids": []}, {"neg_category_ids": []}], True, False),
        (["r", "f"], [{}, {}], False, True),
        ([None, None], [LISTS, LISTS], False, True),
        ([None, None], [{}, {}], False, True),
    ],
)
def test_check_and_evaluation_agree(tmp_path, frequencies, lists, federated, sound):
    file = written(tmp_path, frequencies, lists)
    content = json.loads(file.read_text())
    assert is_lvis(content["images"], content["categories"]) == federated

    report = check_annotations(file, tmp_path)
    assert ("lvis_frequencies" in report.statistics["classes"]) == federated
    assert bool(report.of_level("error")) == (not sound)
    if sound:
        assert evaluate(file, []).truth.protocol.name == ("lvis" if federated else "coco")
    else:
        (first, *_) = report.of_level("error")
        with pytest.raises(DataError) as raised:
            evaluate(file, [])
        assert str(raised.value) == f"{file}: {first.message}"
    assert evaluate(file, [], protocol="coco").truth.protocol.name == "coco"
