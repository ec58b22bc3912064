"""The figure of README.md is drawn from a run's files."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

TREE = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("front_figure", TREE / "tools" / "front_figure.py")
assert SPEC is not None
assert SPEC.loader is not None
front_figure = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(front_figure)

OBJECT, CROWD, EMPTY = [4.0, 4.0, 20.0, 20.0], [40.0, 40.0, 20.0, 20.0], [4.0, 40.0, 20.0, 20.0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four images with an object and a crowd each; two detections of the object, one of nothing, one of the crowd."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(1, 5)]
    for image in images:
        Image.new("RGB", (64, 64), (30, 90, 30)).save(tmp_path / image["file_name"])
    annotations = [
        {"id": 2 * i + crowd, "image_id": i, "category_id": 1, "bbox": box, "area": 400.0, "iscrowd": crowd}
        for i in range(1, 5)
        for crowd, box in enumerate((OBJECT, CROWD))
    ]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tree"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    detections = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": score}
        for i in range(1, 5)
        for box, score in ((OBJECT, 0.9), ([4.0, 4.0, 20.0, 18.0], 0.7), (EMPTY, 0.8), (CROWD, 0.6))
    ]
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "detections.json").write_text(json.dumps(detections))
    (folder / "evaluation" / "metrics.json").write_text(json.dumps({"threshold": 0.75}))
    data = {"val_annotations": str(tmp_path / "truth.json"), "val_images": str(tmp_path)}
    (folder / "config.yaml").write_text(json.dumps({"data": data}))
    return folder


def test_detections_are_sorted_and_matched_once(run: Path, capsys: pytest.CaptureFixture[str]):
    truth = front_figure.COCO(str(run.parent / "truth.json"))
    found = front_figure.sorted_detections(truth, truth.loadRes(str(run / "evaluation" / "detections.json")))
    assert [(detection.score, detection.iou) for detection in found] == [(0.9, 1.0)] * 4 + [(0.8, 0)] * 4 + [
        (0.7, 0)
    ] * 4


def test_a_small_png_is_written(run: Path, tmp_path: Path):
    front_figure.draw(run, tmp_path / "new" / "front.png")
    with Image.open(tmp_path / "new" / "front.png") as figure:
        assert figure.size == (800, 480)


def test_the_committed_figure_is_small():
    assert (TREE / "docs" / "front.png").stat().st_size < 100_000
