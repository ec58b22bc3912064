"""`rst evaluate --detections`: what it prints, writes and complains about."""

import json

import pytest
from evaluation_cases import coco_set, federated_set

from rst.cli.main import main
from rst.evaluation import evaluate, format_table
from rst.evaluation.report import as_json, format_classes


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    truth, results = coco_set(8, 30, 3, seed=1, side=200, masks=True)
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def lvis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lvis")
    truth, results = federated_set(8, 30, 40, seed=1)
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def rst(capsys, folder, *arguments, code=0) -> str:
    """What `rst evaluate` prints: its output if it succeeds, its complaint if not."""
    capsys.readouterr()
    given = ("--detections", folder / "results.json", "--annotations", folder / "truth.json", *arguments)
    assert main(["evaluate", *map(str, given)]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_tables_and_json(capsys, coco, tmp_path, iou_type):
    printed = rst(capsys, coco, "--iou-type", iou_type, "--output", tmp_path / "new" / "metrics.json")
    evaluation = evaluate(coco / "truth.json", coco / "results.json", iou_type)
    assert format_table(evaluation.metrics) in printed
    assert format_classes(evaluation) in printed
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == as_json(evaluation)
    assert "score threshold that oLRP recommends: 0." in printed
    assert f"every number, those of each class too: {tmp_path / 'new' / 'metrics.json'}" in printed
    assert not list(coco.glob("*.png"))


def test_boxes_are_the_default_and_nothing_is_written_unasked(capsys, coco):
    before = sorted(coco.iterdir())
    assert "COCO metrics of boxes" in rst(capsys, coco)
    assert sorted(coco.iterdir()) == before


def test_lvis_is_recognised_and_its_many_classes_are_printed_on_request(capsys, lvis, tmp_path):
    printed = rst(capsys, lvis, "--output", tmp_path)  # a folder
    assert printed.startswith("LVIS metrics of boxes")
    assert "class 39" not in printed
    assert f"one for each class in {tmp_path / 'metrics.json'}" in printed
    assert json.loads((tmp_path / "metrics.json").read_text())["protocol"] == "lvis"
    assert "class 39" in rst(capsys, lvis, "--per-class")
    printed = rst(capsys, lvis, "--protocol", "coco")
    assert printed.startswith("COCO metrics of boxes")
    assert "one for each class with --per-class or in --output FILE.json" in printed


def test_plots_on_request(capsys, coco, tmp_path):
    printed = rst(capsys, coco, "--plots", tmp_path / "plots")
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == ["olrp.png", "precision_recall.png"]
    assert str(tmp_path / "plots" / "olrp.png") in printed


def test_no_detections_are_a_table_of_zeros(capsys, coco, tmp_path):
    (tmp_path / "truth.json").write_bytes((coco / "truth.json").read_bytes())
    (tmp_path / "results.json").write_text("[]")
    printed = rst(capsys, tmp_path, "--output", tmp_path / "metrics.json")
    assert "0 detections in 0 of them" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["AP"], metrics["AR100"], metrics["oLRP"], metrics["threshold"]) == (0.0, 0.0, 1.0, None)
    assert "threshold that oLRP recommends" not in printed


def test_mistakes(capsys, coco, lvis, tmp_path):
    for arguments, message in [
        (
            ("--protocol", "lvis"),
            "truth.json: image 2: 'neg_category_ids' must be a list of category ids in an LVIS file",
        ),
        (("--images", tmp_path), "--images: belongs to --checkpoint, not to --detections"),
        (("--data.workers", "2"), "--data.workers 2: belongs to --checkpoint"),
        (("--checkpoint", "x"), "not allowed with argument --detections"),
        (("--iou-type", "mask"), "argument --iou-type: invalid choice: 'mask'"),
        (("--annotations", tmp_path / "absent.json"), "absent.json: no such file"),
        (("--annotations", coco / "results.json"), "results.json: must hold an object with images"),
        (("--detections", coco / "truth.json"), "truth.json: must be a list of results"),
        (("--detections", lvis / "results.json"), "results.json[0]: category_id"),
    ]:
        assert message in rst(capsys, coco, *arguments, code=2)
    capsys.readouterr()
    assert main(["evaluate", "--detections", str(coco / "results.json")]) == 2
    assert "--detections needs --annotations" in capsys.readouterr().err
    assert main(["evaluate", "--annotations", "x"]) == 2
    assert "one of the arguments --detections --checkpoint is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("score", "message"), [("NaN", "score is not a finite number: nan"), ("1.5", "score must lie in [0, 1], is 1.5")]
)
def test_a_fault_in_the_file_is_named_by_its_place(capsys, coco, tmp_path, score, message):
    results = json.loads((coco / "results.json").read_text())
    results[7]["score"] = "HERE"
    (tmp_path / "results.json").write_text(json.dumps(results).replace('"HERE"', score))
    (tmp_path / "truth.json").write_bytes((coco / "truth.json").read_bytes())
    complaint = rst(capsys, tmp_path, code=2)
    assert f"{tmp_path / 'results.json'}[7]: {message}" in complaint
    assert "Traceback" not in complaint


def test_help_names_both_forms(capsys):
    assert main(["evaluate", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("--detections", "--checkpoint", "--iou-type", "--output", "--plots", "--protocol", "oLRP"):
        assert word in printed
    assert max(map(len, printed.splitlines())) <= 120
