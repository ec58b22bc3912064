"""`rst data check`: what it prints and writes, its exit codes, and mistakes in its arguments."""

import contextlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corrupted_sets import TWENTY, CorruptedSet
from oracle_detector import oracle
from PIL import Image

from rst.cli.main import main
from rst.data import CocoDetection
from rst.data.check import KINDS
from rst.data.samples import shapes

SMALL_PAA = (
    "model:\n  class_path: rst.detectors.paa\n  init_args:\n    num_classes: 6\n    head_channels: 64\n"
    "    backbone: {name: mobilenet_v2, fpn_channels: 16}\n"
    "data: {train_annotations: x.json, train_images: x, val_annotations: x.json, val_images: x, short_sides: [96]}\n"
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "shapes"
    shapes.prepare(folder, train=50, val=4, side=96, seed=4)
    return folder


def run(*arguments: object) -> int:
    return main(["data", "check", *map(str, arguments)])


def test_a_clean_set_has_exit_code_0_and_its_statistics(clean, capsys):
    assert run(clean / "annotations/train.json", clean / "train") == 0
    printed, complained = capsys.readouterr()
    assert printed.endswith(
        " annotations are crowds: not learnt, and background\n\nrst: 0 errors, 1 warning: training would work\n"
    )
    assert complained == ""
    assert "images     50: " in printed
    assert "classes    6: 2 of 6 classes have half of the objects" in printed
    assert "positives  not counted; with --config FILE " in printed
    assert "error:" not in printed
    assert "note: category ids have gaps (3, 5-6, 8-10, 12-15)" in printed


def test_errors_have_exit_code_1_and_a_report_with_everything(clean, tmp_path, capsys):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    planted = [plant(corrupted) for plant in TWENTY]
    corrupted.write()
    assert (
        run(corrupted.annotations, corrupted.images, "--masks", "--decode", "--output", tmp_path / "report.json") == 1
    )
    printed = capsys.readouterr().out
    assert "rst: 14 errors, 7 warnings: training would fail" in printed
    for kind, _, entry_id in planted:
        level = "error" if KINDS[kind] != "never" else "warning"
        remedy = ", or train without them: --data.faulty_boxes leave_out" * (KINDS[kind] in ("boxes", "shapes"))
        assert f"{level}: {kind} (1){remedy}\n    " in printed
        assert f" {entry_id}" in printed
    assert printed.index("warning: ") > printed.rindex("error: "), "errors first"
    report = json.loads((tmp_path / "report.json").read_text())
    listed = [(f["kind"], f["subject"], f["id"]) for f in report["findings"]]
    assert sorted(entry for entry in listed if entry[0] != "crowds") == sorted(planted)


def tiny(folder: Path, sizes: list[tuple[int, int]], objects: int, classes: int = 1) -> tuple[Path, Path]:
    """Black images of these heights and widths; the first has all the objects."""
    folder.mkdir(exist_ok=True)
    images = []
    for k, (height, width) in enumerate(sizes, 1):
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folder / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": height, "width": width})
    annotations = [
        {"id": k, "image_id": 1, "category_id": k % classes + 1, "bbox": [2, 2 + 3 * k, 20, 9]} for k in range(objects)
    ]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)]
    (folder / "set.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder / "set.json", folder


def test_one_object_is_described_as_one_would(tmp_path, capsys):
    assert run(*tiny(tmp_path / "set", [(50, 50)], 1)) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2:7] == [
        "images     1: 1 with objects; 1 square",
        "           width x height: 50x50 pixels",
        "objects    1: 1 small (below 32 x 32 pixels)",
        "classes    1: 1 of 1 classes have fewer than 10 objects",
        "           class 1 1",
    ]
    assert "wide" not in text


def test_a_few_objects_are_described_as_one_would(tmp_path, capsys):
    assert run(*tiny(tmp_path / "set", [(60, 50), (50, 60), (50, 50), (40, 60)], 14, 3)) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2:8] == [
        "images     4: 1 with objects, 3 without; 2 wide, 1 upright, 1 square",
        "           width x height: smallest 60x40, median 50x60, largest 60x50 pixels",
        "objects    14: 14 small (below 32 x 32 pixels)",
        "           14 per image with objects, at most 14; side (root of the area): 5 % below 13, half below 13, 95 % "
        "below 13 pixels",
        "classes    3: 2 of 3 classes have half of the objects; 3 of 3 classes have fewer than 10 objects; most to "
        "least 1.2",
        "           class 1 5, class 2 5, class 3 4",
    ]


def test_the_detector_of_an_experiment_counts_its_positives(clean, tmp_path, capsys):
    (tmp_path / "oracle.yaml").write_text(
        f"model:\n  class_path: oracle_detector.oracle\n  init_args: {{num_classes: 6, side: 96, "
        f"annotations: {clean}/annotations/val.json, images: {clean}/val}}\n"
        f"data: {{train_annotations: x.json, train_images: x, val_annotations: x.json, val_images: x, "
        f"short_sides: [96], max_side: 96, flip: 0.0, masks: true}}\n"
    )
    annotations = clean / "annotations/train.json"
    given = ("--config", tmp_path / "oracle.yaml", "--output", tmp_path / "report.json")
    assert run(annotations, clean / "train", *given) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())["statistics"]["positives"]
    # the same by hand: the images keep their size
    data = CocoDetection(annotations, clean / "train", keep_empty=False)
    model = oracle(6, str(clean / "annotations/val.json"), str(clean / "val"), side=96)
    levels: Counter[int] = Counter()
    objects = missed = 0
    for image, target in (data[i] for i in range(len(data))):
        positives = model.positives([image], [target])["mask"]
        levels.update(positives.level.tolist())
        objects += len(target["boxes"])
        missed += len(target["boxes"]) - len(positives.truth.unique())
    assert (found["images"], found["objects"]) == (len(data), objects)
    head = found["heads"]["mask"]
    assert head["per_image"] == {f"P{k}": round(n / len(data), 2) for k, n in sorted(levels.items())}
    assert head["share_of_objects_without"] == pytest.approx(missed / objects, abs=1e-4)
    assert 0 < missed < objects
    assert (
        f"positives  per image, of {len(data)} images with {objects} objects, at the size of the training:" in printed
    )
    assert f"           mask head: P2 {head['per_image']['P2']:g}, P4 " in printed


def test_a_detector_that_picks_positives_by_its_predictions_counts_none(clean, tmp_path, capsys):
    (tmp_path / "paa.yaml").write_text(SMALL_PAA)
    given = ("--config", tmp_path / "paa.yaml", "--output", tmp_path / "report.json")
    assert run(clean / "annotations/train.json", clean / "train", *given) == 0
    assert "\npositives  not counted: this detector picks them by its predictions" in capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())["statistics"]
    assert found["positives"]["heads"] == {}
    assert found["anchors"]["heads"]["dense"]["by"] == "iou"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_progress_is_shown_on_a_terminal_even_one_that_does_not_know_its_size(clean, monkeypatch):
    import pty

    ours, theirs = pty.openpty()  # 0 columns wide, 0 lines high
    os.set_blocking(ours, False)  # nothing to read is a failure, nothing to wait for
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert run(clean / "annotations/train.json", clean / "train") == 0
        shown = b""
        with contextlib.suppress(BlockingIOError):  # a terminal hands out what it has in pieces
            while piece := os.read(ours, 1 << 16):
                shown += piece
    os.close(ours)
    shown = shown.decode()
    for step in ("reading 0 MiB of JSON ...", "masks:   0%|", "images:   0%|", "/50 ["):
        assert step in shown


def test_warnings_alone_have_exit_code_0(clean, tmp_path, capsys):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    for entry in corrupted.content["annotations"]:
        entry["area"] = 10**6
    corrupted.write()
    assert run(corrupted.annotations, "--images", corrupted.images, "--show", 2) == 0
    printed = capsys.readouterr().out
    objects = sum(not entry["iscrowd"] for entry in corrupted.content["annotations"])
    assert f"warning: area larger than the box ({objects})\n" in printed
    assert f"    ... and {objects - 2} more (--show {objects}, or --output FILE)" in printed
    assert printed.endswith(f"rst: 0 errors, {objects + 1} warnings: training would work\n")


def test_faulty_boxes_left_out_are_warnings(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    corrupted.object()["bbox"] = [5, 5, 0, 0]
    corrupted.write()
    assert run(corrupted.annotations, corrupted.images) == 1
    assert run(corrupted.annotations, corrupted.images, "--faulty-boxes", "leave_out") == 0


def test_an_experiment_that_leaves_faulty_boxes_out_has_warnings(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    corrupted.object()["bbox"] = [5, 5, 0, 0]
    corrupted.write()
    config = tmp_path / "paa.yaml"
    config.write_text(SMALL_PAA)
    given = (corrupted.annotations, corrupted.images, "--config", config)
    assert run(*given) == 1
    assert run(*given, "--data.faulty_boxes", "leave_out") == 0
    assert run(*given, "--data.faulty_boxes", "leave_out", "--faulty-boxes", "refuse") == 1


def test_a_broken_file_has_exit_code_1(clean, tmp_path, capsys):
    (tmp_path / "broken.json").write_text('{"images": [1,\n]')
    assert run(tmp_path / "broken.json", clean / "train") == 1
    assert "error: malformed file (1)\n    malformed JSON at line 2, column 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: rst data check ANNOTATIONS IMAGES"),
        (["{a}"], "name the folder of the images once"),
        (["{a}", "{i}", "--images", "{i}"], "name the folder of the images once"),
        (["nowhere.json", "{i}"], "nowhere.json: no such file"),
        (["{a}", "nowhere"], "nowhere: no such folder (should hold the images of"),
        (["{a}", "{i}", "--decode", "--no-headers"], "--decode looks at all of each image"),
        (["{a}", "{i}", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["{a}", "{i}", "--output", "no/where.json"], "there is no folder no"),
        (["{a}", "{i}", "--mask"], "unrecognized arguments: --mask"),
        (["{a}", "{i}", "--faulty-boxes", "drop"], "invalid choice: 'drop'"),
    ],
)
def test_mistakes_in_the_arguments_have_exit_code_2(clean, capsys, arguments, message):
    paths = {"{a}": str(clean / "annotations/val.json"), "{i}": str(clean / "val")}
    assert run(*[paths.get(argument, argument) for argument in arguments]) == 2
    printed, complained = capsys.readouterr()
    assert message in complained + printed
    assert "Traceback" not in complained


def test_help_names_every_kind_of_fault_and_the_codes(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for words in ("exit code: 1 if there are errors", "0 if there", "2 for a mistake", "--faulty-boxes", "--decode"):
        assert words in printed
