"""Tables, JSON and plots: every number printed is in the JSON, and a plot shows what it says."""

import json

import numpy as np
import pytest
from evaluation_cases import coco_set, federated_set
from matplotlib.figure import Figure
from PIL import Image

from rst.evaluation import Evaluation, evaluate, format_table
from rst.evaluation.lrp import GRID
from rst.evaluation.plots import draw_evaluation
from rst.evaluation.report import as_json, format_classes, format_threshold, headline, notes


def evaluated(folder, truth, results) -> Evaluation:
    (folder / "truth.json").write_text(json.dumps(truth))
    return evaluate(folder / "truth.json", results)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("coco"), *coco_set(15, 40, 4, seed=1, side=300))


@pytest.fixture(scope="module")
def lvis(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("lvis"), *federated_set(15, 60, 30, seed=2))


def test_the_table_is_in_per_cent():
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    metrics = dict(zip(names, [0.3957, 0.5, 1.0, -1.0, 0.0, 0.25, 0.1, 0.2, 0.3, 0.4, 0.5, -1.0], strict=True))
    rows = [
        "     AP   AP50   AP75    APs    APm    APl",
        "   39.6   50.0  100.0      -    0.0   25.0",
        "    AR1   AR10  AR100    ARs    ARm    ARl",
        "   10.0   20.0   30.0   40.0   50.0      -",
    ]
    assert format_table(metrics).splitlines() == rows
    lrp = {"oLRP": 0.679, "oLRP_Loc": 0.163, "oLRP_FP": 0.278, "oLRP_FN": 0.454}
    small = {"oLRPs": 1.0, "oLRPs_Loc": -1.0, "oLRPs_FP": -1.0, "oLRPs_FN": 1.0}
    assert format_table(metrics | lrp | small).splitlines()[4:] == [
        "",
        "             oLRP    Loc     FP     FN",
        "       all   67.9   16.3   27.8   45.4",
        "     small  100.0      -      -  100.0",
    ]


def test_the_tables_show_the_metrics_and_no_others(coco, lvis):
    for evaluation in (coco, lvis):
        shown = [word for word in format_table(evaluation.metrics).split() if word[-1].isdigit() and "." in word]
        shown += [word for word in format_table(evaluation.metrics).split() if word == "-"]
        assert len(shown) == len(evaluation.metrics)
    assert [line.split()[0] for line in format_table(lvis.metrics).splitlines()[-3:]] == ["rare", "common", "frequent"]


def test_the_table_of_classes(coco):
    lines = format_classes(coco).splitlines()
    assert lines[0].split() == ["class", "objects", "AP", "AP50", "AP75", "oLRP", "Loc", "FP", "FN", "threshold"]
    assert len({len(line) for line in lines}) == 1, "columns stand under their names"
    for line, entry in zip(lines[1:], coco.classes, strict=True):
        *name, objects, ap, _, _, olrp, _, _, _, threshold = line.split()
        assert " ".join(name) == entry["name"]
        assert int(objects) == entry["objects"]
        if entry["objects"]:
            assert (float(ap), float(olrp)) == pytest.approx((100 * entry["AP"], 100 * entry["oLRP"]), abs=0.051)
            assert entry["threshold"] - 0.001 < float(threshold) <= entry["threshold"]
        else:
            assert (ap, olrp, threshold) == ("-", "-", "-")
    long = coco.classes[0] | {"name": "a class with a name that goes on and on"}
    changed = Evaluation(**(vars(coco) | {"classes": [long, *coco.classes[1:]]}))
    assert max(map(len, format_classes(changed).splitlines())) < 110


@pytest.mark.parametrize(("threshold", "text"), [(None, "-"), (0.6, "0.600"), (0.5789, "0.578"), (0.0, "0.000")])
def test_a_threshold_is_never_rounded_up(threshold, text):
    assert format_threshold(threshold) == text


def test_json_holds_everything(coco, lvis):
    for evaluation in (coco, lvis):
        content = json.loads(json.dumps(as_json(evaluation), allow_nan=False))
        assert {name: content[name] for name in evaluation.metrics} == evaluation.metrics
        assert content["classes"] == evaluation.classes
        assert len(content["classes"]) == len(evaluation.truth.category_ids)
        assert content["threshold"] == evaluation.threshold
        for entry in content["classes"]:
            own = {name for name in evaluation.metrics if not set(name.split("_")[0]) & {"r", "c", "f"}}
            assert own <= entry.keys(), "a class has every metric but those of frequencies"
        assert content["objects"] == sum(entry["objects"] for entry in content["classes"])
    assert (as_json(coco)["protocol"], as_json(coco)["iou_type"]) == ("coco", "bbox")
    assert as_json(lvis)["protocol"] == "lvis"
    assert {entry["frequency"] for entry in lvis.classes} == {"r", "c", "f"}


def test_the_headline_says_what_was_judged(coco):
    crowds = len(coco.truth.areas) - sum(entry["objects"] for entry in coco.classes)
    assert crowds > 0
    assert headline(coco) == (
        f"COCO metrics of boxes: {len(coco.truth.areas) - crowds} objects of 5 classes in 15 images; "
        f"600 detections in 15 of them"
    )
    assert notes(coco) == []


def test_a_detector_that_stopped_before_lviss_limit_is_noted(tmp_path):
    def said(per_image: int, **change) -> list[str]:
        truth, results = federated_set(6, per_image, 30, seed=2)
        if change:
            results = [result for i, result in enumerate(results) if change["kept"](i)]
        return [note for note in notes(evaluated(tmp_path, truth, results)) if "--model.detections.limit" in note]

    (note,) = said(100)
    assert note.startswith(
        "most images have 100 detections, none has more: is that the limit of the detector (--model.detections.limit)?"
    )
    assert said(300) == [], "the protocol's own"
    assert said(350) == []
    assert said(20) == [], "few because few were found"
    assert said(100, kept=lambda i: i % 100 < 60 + i // 100) == [], "as many as were found, in each another number"
    truth, results = coco_set(6, 100, 3, seed=1)
    assert notes(evaluated(tmp_path, truth, results)) == [], "COCO counts 100"


def colours(file) -> set[str]:
    """Hexadecimal RRGGBB."""
    with Image.open(file) as image:
        assert min(image.size) > 500
        pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    return {f"{colour:06x}" for colour in np.unique(pixels @ [1 << 16, 1 << 8, 1]).tolist()}


def test_plots(coco, lvis, tmp_path):
    for name, evaluation in (("coco", coco), ("lvis", lvis)):
        files = draw_evaluation(evaluation, tmp_path / name)
        assert files == [tmp_path / name / "precision_recall.png", tmp_path / name / "olrp.png"]
        for file in files:
            assert {"000000", "ffffff"} <= colours(file)
            assert len(colours(file)) > 50
    assert "ff7f0e" in colours(tmp_path / "coco" / "olrp.png"), "a colour for each of a few classes"
    assert "ff7f0e" not in colours(tmp_path / "lvis" / "olrp.png"), "one for many"


def test_a_single_class_has_one_panel_of_precision(tmp_path):
    truth, results = coco_set(5, 20, 1, seed=1, side=200)
    truth["categories"] = truth["categories"][:1]
    files = draw_evaluation(evaluated(tmp_path, truth, results), tmp_path)
    with Image.open(files[0]) as one:
        assert one.width < 1.5 * one.height


def test_nothing_is_drawn_without_objects_and_a_flat_line_without_detections(tmp_path):
    truth, _ = coco_set(3, 1, 2, seed=1)
    assert draw_evaluation(evaluated(tmp_path, truth | {"annotations": []}, []), tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
    evaluation = evaluated(tmp_path, truth, [])
    assert len(draw_evaluation(evaluation, tmp_path / "flat")) == 2
    assert (evaluation.mean_error == 1).all()
    assert len(evaluation.mean_error) == len(GRID)


def test_the_axis_of_lrp_errors_ends_at_100_per_cent(coco, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    truth, _ = coco_set(3, 1, 2, seed=1)
    for evaluation in (coco, evaluated(tmp_path, truth, [])):
        draw_evaluation(evaluation, tmp_path)
        bottom, top = drawn[-1].axes[0].get_ylim()
        least = 100 * min(curve.errors.min(initial=1) for curve in evaluation.curves)
        assert bottom < min(least, 95) < 100 < top < 105
