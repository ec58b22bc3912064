"""Masks through the whole toolkit: a detector that returns the truth is judged perfect, by boxes and by masks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detection import CLASSES, prepare_data, training_arguments

from rst.cli.main import main
from rst.coco.masks import decode_segmentation
from rst.evaluation.draw import MASK_OPACITY, class_colour
from rst.training.curves import read_metrics
from rst.training.heads import read_heads


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


def oracle_arguments(data: Path, output: Path, *more: str) -> list[str]:
    """A run whose images keep their size, so that the truth comes out of it unchanged."""
    return training_arguments(
        data,
        output,
        *("--model", "oracle_detector.oracle", "--model.num_classes", str(CLASSES), "--data.masks", "true"),
        *("--model.annotations", str(data / "annotations/val.json"), "--model.images", str(data / "val")),
        *("--data.short_sides", "[64]", "--data.max_side", "64", "--trainer.max_epochs", "1"),
        *more,
    )


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(oracle_arguments(data, output)) == 0
    return output


def rst(capsys, *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_validation_in_training_scores_boxes_and_masks(run):
    logged = read_metrics(run / "metrics.csv")
    for prefix in ("val/", "val/segm_"):
        assert logged[f"{prefix}AP"][1].tolist() == pytest.approx([1.0])
        assert logged[f"{prefix}oLRP"][1].tolist() == pytest.approx([0.0], abs=1e-6)
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert "val/AP" in [state.get("monitor") for state in last["callbacks"].values()]
    assert read_heads(run, logged) == {"mask": "mask head"}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_checkpoint_is_scored_by_either(capsys, run, tmp_path, iou_type):
    printed = rst(capsys, "evaluate", "--checkpoint", run, "--iou-type", iou_type, "--output", tmp_path)
    assert f"metrics of {'boxes' if iou_type == 'bbox' else 'masks'}" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["iou_type"] == iou_type
    assert (metrics["AP"], metrics["oLRP"]) == pytest.approx((1.0, 0.0), abs=1e-6)
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert all({"bbox", "segmentation"} <= detection.keys() for detection in detections)
    again = rst(
        capsys, "evaluate", "--detections", tmp_path / "detections.json", "--iou-type", iou_type,
        "--annotations", re.search(r"val_annotations: (.*)", (run / "config.yaml").read_text())[1],
    )  # fmt: skip
    assert "100.0" in again


def test_resized_masks_come_back_to_the_pixels_of_the_file(capsys, run, tmp_path):
    resized = ("--data.test_short_side", "96", "--data.max_side", "96", "--model.side", "96")
    rst(capsys, "evaluate", "--checkpoint", run, "--iou-type", "segm", "--output", tmp_path, *resized)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["AP"] > 0.95
    assert metrics["oLRP"] < 0.03


def test_a_detector_for_masks_alone_has_a_metric_to_be_judged_by(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(oracle_arguments(data, run, "--model.iou_types", "[segm]")) == 0
    logged = read_metrics(run / "metrics.csv")
    assert logged["val/segm_AP"][1].tolist() == pytest.approx([1.0])
    assert "val/AP" not in logged
    assert (run / "checkpoints/best.ckpt").is_file()
    assert "metrics of masks" in rst(capsys, "evaluate", "--checkpoint", run)


def test_masks_of_a_detector_without_them_are_refused(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(oracle_arguments(data, run, "--model.masks", "false", "--data.masks", "false")) == 0
    message = rst(capsys, "evaluate", "--checkpoint", run, "--iou-type", "segm", code=2)
    assert "--iou-type segm: Oracle of " in message
    assert "makes no masks, only boxes" in message


def test_predictions_have_masks_and_are_drawn_half_transparent(capsys, data, run, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    truth = json.loads((data / "annotations/val.json").read_text())
    own = {i["id"]: [a for a in truth["annotations"] if a["image_id"] == i["id"]] for i in truth["images"]}
    several = [i for i in truth["images"] if len(own[i["id"]]) > 1 and not any(a["iscrowd"] for a in own[i["id"]])]
    entry = max(several, key=lambda i: min(own[i["id"]][-1]["bbox"][2:]))  # the surest detection is the last object's
    pixels = np.asarray(Image.open(data / "val" / entry["file_name"]))
    Image.fromarray(pixels).save(images / "one.png")
    rst(capsys, "predict", "--checkpoint", run, images, "--output", tmp_path / "out", "--threshold", "1")
    (described,) = json.loads((tmp_path / "out/predictions.json").read_text())
    (prediction, *others) = described["predictions"]
    assert not others, "the surest alone: scores run from 0.5 to 1"
    size = (entry["height"], entry["width"])
    mask = decode_segmentation(prediction["segmentation"], *size, "prediction").astype(bool)
    expected = decode_segmentation(own[entry["id"]][-1]["segmentation"], *size, "truth").astype(bool)
    assert (mask == expected).all()
    drawn = np.asarray(Image.open(tmp_path / "out/one.png"))
    scale = drawn.shape[0] // pixels.shape[0]
    inside = expected.copy()
    for axis in (0, 1):  # away from box, text and the blur of enlarging
        for shift in (1, 2, 3, -1, -2, -3):
            inside &= np.roll(expected, shift, axis)
    colour = np.array(class_colour(prediction["label"]))
    blended = (1 - MASK_OPACITY) * pixels + MASK_OPACITY * colour
    difference = np.abs(drawn[scale // 2 :: scale, scale // 2 :: scale].astype(float) - blended).max(-1)
    assert inside.any()
    assert np.median(difference[inside]) < 15
