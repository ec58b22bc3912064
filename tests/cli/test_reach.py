"""`rst train` and `rst data check --config` say which objects the anchors reach, and how to reach the others."""

import json
import re
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from rst.cli.main import main
from rst.data.samples import shapes

TABLE = "the IoU of their best anchor:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes, and the settings of a small Faster R-CNN whose anchors are far too large for them."""
    folder = tmp_path_factory.mktemp("reach")
    shapes.prepare(folder / "shapes", train=12, val=2, side=96, seed=3)
    (folder / "rs.yaml").write_text(
        "model:\n  class_path: rst.detectors.faster_rcnn\n"
        "  init_args: {num_classes: 6, anchor_scale: 32, head_channels: 8, "
        "backbone: {name: resnet18, weights: null, fpn_channels: 32}}\n"
        f"data: {{train_annotations: {folder}/shapes/annotations/train.json, train_images: {folder}/shapes/train, "
        f"val_annotations: {folder}/shapes/annotations/val.json, val_images: {folder}/shapes/val, "
        "short_sides: [64, 96], max_side: 128, images_per_batch: 1, workers: 0}\n"
        "trainer: {accelerator: cpu, devices: 1, max_epochs: 1, limit_train_batches: 1, limit_val_batches: 0, "
        "enable_progress_bar: false, logger: false}\n"
    )
    return folder


def test_training_begins_with_a_table_and_a_warning(folder, tmp_path, capsys, monkeypatch):
    def stop(trainer, *args, **options):
        raise KeyboardInterrupt("here the training would begin")

    monkeypatch.setattr(Trainer, "fit", stop)
    assert main(["train", "--config", str(folder / "rs.yaml"), "--output", str(tmp_path / "run")]) == 130
    lines = capsys.readouterr().out.splitlines()
    (start,) = (k for k, line in enumerate(lines) if TABLE in line)
    objects = json.loads((folder / "shapes/annotations/train.json").read_text())
    count = sum(not entry["iscrowd"] for entry in objects["annotations"])
    assert lines[start] == f"rst: anchors: RPN at a scale of 32; {count} objects at a short side of 64 to 96; {TABLE}"
    rows = [line for line in lines[start + 2 :] if re.match(r"rst: +[\d.]+ % +[\d.]+ % +[\d.]+ %   ", line)]
    assert rows[0].endswith("   all classes")
    names = {objects["categories"][k]["name"] for k in range(6)}
    assert {row.rsplit("   ", 1)[1] for row in rows[1:]} <= names
    missed, advice = (line for line in lines if line.startswith("rst: warning: "))
    assert missed.startswith(
        f"rst: warning: {folder}/shapes/annotations/train.json: in the RPN many objects have no anchor with an IoU of "
        "0.3 or more: "
    )
    found = re.fullmatch(
        r"rst: warning: model\.anchor_scale is 32; with (--model\.anchor_scale \S+) \S+ % of these objects would have "
        "none",
        advice,
    )
    assert found


def test_the_check_says_the_same_and_the_remedy_ends_the_warning(folder, tmp_path, capsys):
    annotations = folder / "shapes/annotations/train.json"
    given = ["data", "check", str(annotations), str(folder / "shapes/train"), "--config", str(folder / "rs.yaml")]
    assert main([*given, "--output", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    assert "warning: objects that no anchor reaches (1)\n    in the RPN many objects have no anchor " in printed
    assert "anchors    RPN at a scale of 32; " in printed
    assert printed.startswith(str(annotations))
    report = json.loads((tmp_path / "report.json").read_text())
    (finding,) = (entry for entry in report["findings"] if entry["kind"] == "objects that no anchor reaches")
    assert (finding["level"], finding["file"]) == ("warning", str(annotations))
    head = report["statistics"]["anchors"]["heads"]["rpn"]
    assert head["none"] > 0.25
    ((key, value),) = head["remedy"]["settings"].items()
    assert main([*given, f"--{key}", str(value)]) == 0
    printed = capsys.readouterr().out
    assert "objects that no anchor reaches" not in printed
    assert f"RPN at a scale of {value:g}; " in printed
