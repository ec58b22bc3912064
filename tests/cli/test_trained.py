"""`rst evaluate`, `rst predict` and `rst plot` on checkpoints, a tiny detector's and a real one's."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detection import CLASSES, VAL, prepare_data, training_arguments

from rst.cli.main import main
from rst.data import CocoDetection
from rst.evaluation import evaluate_detections
from rst.training.curves import read_metrics

FASTER_RCNN = [  # the real detector at its smallest
    "--model",
    "rst.detectors.faster_rcnn",
    *("--model.num_classes", str(CLASSES), "--model.backbone.name", "mobilenet_v2"),
    *("--model.backbone.fpn_channels", "8", "--model.head_channels", "8"),
    *("--model.proposals.train_limit", "20", "--model.proposals.test_limit", "20"),
    *("--model.detections.score_threshold", "0.0", "--optimizer.lr", "0.001", "--trainer.max_epochs", "1"),
]

ATSS = [
    *("--model", "rst.detectors.atss", "--model.num_classes", str(CLASSES), "--model.backbone.name", "mobilenet_v2"),
    *("--model.backbone.fpn_channels", "8", "--model.head_channels", "64", "--model.detections.score_threshold", "0.0"),
    *("--optimizer.lr", "0.001", "--trainer.max_epochs", "1"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(training_arguments(data, output)) == 0
    return output


def size_of(file) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def rst(capsys, *arguments, code=0) -> str:
    """What `rst` prints: its output if it succeeds, its complaint if not."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_evaluation_repeats_the_validation_of_the_training(capsys, data, run):
    printed = rst(capsys, "evaluate", "--checkpoint", run / "checkpoints" / "last.ckpt")
    assert "AP50" in printed
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    logged = read_metrics(run / "metrics.csv")
    for name in ("AP", "AP50", "AR100", "APs"):
        assert metrics[name] == pytest.approx(logged[f"val/{name}"][1][-1], abs=1e-6)
    results = json.loads((run / "evaluation" / "detections.json").read_text())
    assert len(results) == VAL * CLASSES
    assert {result["category_id"] for result in results} == {1, 2, 4, 7, 11, 16}, "the file's own category ids"
    assert evaluate_detections(data / "annotations" / "val.json", results)["AR100"] == pytest.approx(metrics["AR100"])


def test_evaluation_of_other_data(capsys, data, run, tmp_path):
    chosen = ("--annotations", data / "annotations" / "train.json", "--images", data / "train")
    rst(capsys, "evaluate", "--checkpoint", run, *chosen, "--output", tmp_path / "train")
    results = json.loads((tmp_path / "train" / "detections.json").read_text())
    images = CocoDetection(data / "annotations" / "train.json", data / "train")
    assert {result["image_id"] for result in results} == set(images.image_ids)


def test_evaluation_takes_all_of_the_data_on_one_device_of_this_machine(capsys, data, tmp_path):
    run = tmp_path / "run"
    rst(capsys, *training_arguments(data, run, "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("accelerator: cpu", "accelerator: tpu").replace("'1'", "'64'"))
    rst(capsys, "evaluate", "--checkpoint", run, "--trainer.accelerator", "cpu")
    assert len(json.loads((run / "evaluation" / "detections.json").read_text())) == VAL * CLASSES
    rst(capsys, "evaluate", "--checkpoint", run, "--trainer.limit_val_batches", "1")
    assert len(json.loads((run / "evaluation" / "detections.json").read_text())) == 2 * CLASSES


def test_other_categories_than_the_checkpoints_are_refused(capsys, data, run, tmp_path):
    content = json.loads((data / "annotations" / "val.json").read_text())
    content["categories"][0]["name"] = "plate"
    (tmp_path / "plates.json").write_text(json.dumps(content))
    chosen = ("--annotations", tmp_path / "plates.json", "--images", data / "val")
    message = rst(capsys, "evaluate", "--checkpoint", run, *chosen, code=2)
    assert "plates.json: its categories (plate, star" in message
    assert "(disc, star" in message
    assert "belong together" in rst(capsys, "evaluate", "--checkpoint", run, "--images", data / "val", code=2)


def test_a_checkpoint_on_its_own_knows_its_model(capsys, data, run, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    alone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "deep" / "er" / "mine.ckpt")
    rst(capsys, "predict", "--checkpoint", alone, data / "val", "--output", tmp_path / "images")
    assert (tmp_path / "images" / "predictions.json").is_file()


def test_a_checkpoint_of_other_classes_is_refused(capsys, run):
    message = rst(capsys, "evaluate", "--checkpoint", run, "--model.num_classes", "4", code=2)
    assert "best.ckpt: does not fit the model: the checkpoint has 6 classes, the model 4" in message
    assert (
        "first parameter that does not fit: head.weight, shape (30, 3) in the checkpoint, (20, 3) in the model"
        in message
    )


def test_a_truncated_checkpoint_is_refused(capsys, run, tmp_path):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes((run / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    for command in (["evaluate"], ["predict", "image.png", "--output", tmp_path]):
        (tmp_path / "image.png").touch()
        message = rst(capsys, *command, "--checkpoint", cut, code=2)
        assert "cut.ckpt: not a readable checkpoint" in message or "image.png" in message
    assert "neither best.ckpt nor last.ckpt" in rst(capsys, "evaluate", "--checkpoint", tmp_path, code=2)


def test_predictions_are_in_pixels_of_the_image(capsys, data, run, tmp_path):
    wide = tmp_path / "in" / "wide.jpg"
    wide.parent.mkdir()
    Image.fromarray(np.full((90, 300, 3), 128, np.uint8)).save(wide)
    upright = tmp_path / "in" / "below" / "wide.jpg"  # the same name; turned by its EXIF entry
    upright.parent.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((90, 300, 3), 128, np.uint8)).save(upright, exif=exif)
    output = tmp_path / "out"
    printed = rst(capsys, "predict", "--checkpoint", run, wide.parent, "--output", output, "--threshold", "0")
    assert f"{2 * CLASSES} objects" in printed
    entries = {entry["file_name"]: entry for entry in json.loads((output / "predictions.json").read_text())}
    for file, size in ((wide, (300, 90)), (upright, (90, 300))):
        entry = entries[str(file)]
        assert (entry["width"], entry["height"]) == size
        scores = [prediction["score"] for prediction in entry["predictions"]]
        assert scores == sorted(scores, reverse=True)
        for prediction in entry["predictions"]:
            left, top, width, height = prediction["bbox"]
            assert 0 <= left <= left + width <= size[0] + 0.02
            assert 0 <= top <= top + height <= size[1] + 0.02
            assert (
                prediction["category"] == ["disc", "star", "ring", "bar", "crescent", "triangle"][prediction["label"]]
            )
    # the detector's boxes are shares of the image: most of them reach beyond an image that was not scaled back
    assert max(sum(p["bbox"][::2]) for p in entries[str(wide)]["predictions"]) > 64
    assert {size_of(output / name) for name in ("wide.png", "below/wide.png")} == {(1200, 360), (360, 1200)}


def test_the_threshold_leaves_out_the_unsure(capsys, data, run, tmp_path):
    image = sorted((data / "val").iterdir())[0]
    common = ("predict", "--checkpoint", run, image, "--output", tmp_path)
    rst(capsys, *common, "--threshold", "0")
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    scores = [prediction["score"] for prediction in entry["predictions"]]
    middle = (scores[2] + scores[3]) / 2
    rst(capsys, *common, f"--threshold={middle}")
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    assert [prediction["score"] for prediction in entry["predictions"]] == scores[:3]


def test_unreadable_files_are_named_and_the_others_done(capsys, data, run, tmp_path):
    good = sorted((data / "val").iterdir())[0]
    bad, empty = tmp_path / "bad.png", tmp_path / "empty.jpg"
    bad.write_bytes(good.read_bytes()[:200])
    empty.touch()
    output = tmp_path / "out"
    message = rst(capsys, "predict", "--checkpoint", run, bad, good, empty, "--output", output, code=2)
    assert "2 of 3 images cannot be read" in message
    assert str(bad) in message
    assert str(empty) in message
    assert [entry["file_name"] for entry in json.loads((output / "predictions.json").read_text())] == [str(good)]


def test_mistakes_of_predict(capsys, data, run, tmp_path):
    (tmp_path / "nothing").mkdir()
    common = ("predict", "--checkpoint", run, "--output", tmp_path / "out")
    for arguments, message in [
        ([tmp_path / "none.png"], "none.png: no such file or folder"),
        ([tmp_path / "nothing"], "nothing: no images in this folder"),
        ([], "no images given"),
        ([data / "val", "--threshold", "50"], "--threshold must lie between 0 and 1, got 50"),
        ([data / "val", "--device", "gpu7"], "--device gpu7"),
        ([data / "val", "--model.wieghts", "x"], "unknown key model.wieghts"),
    ]:
        assert message in rst(capsys, *common, *arguments, code=2)


def test_plot(capsys, run, tmp_path):
    assert str(tmp_path / "new.png") in rst(capsys, "plot", run, "--output", tmp_path / "new.png")
    assert size_of(tmp_path / "new.png")[0] > 500
    assert "metrics.csv: no such file" in rst(capsys, "plot", tmp_path / "none", code=2)


@pytest.mark.parametrize("loss", ["rank_sort", "alrp"])
def test_the_dense_detector_from_training_to_images(capsys, data, tmp_path, loss):
    run = tmp_path / "run"
    window = ["--model.self_balance_window", "2"] if loss == "alrp" else []
    rst(capsys, *training_arguments(data, run, *ATSS, "--model.loss", loss, *window, "--ema_decay", "0.9"))
    logged = read_metrics(run / "metrics.csv")
    if loss == "rank_sort":
        rank, sort, box = (logged[f"loss_{term}"][1] for term in ("rank", "sort", "bbox"))
        assert box == pytest.approx(rank + sort, rel=1e-5)
    else:  # its balance begins at 50 and is renewed after each window: it survives checkpoints and the average
        assert set(logged["balance_dense"][1][:2]) == {50.0}
        assert logged["balance_dense"][1][-1] != 50
        weight = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"][
            "model.loss.balance.weight"
        ]
        assert weight not in (0, 50)
    rst(capsys, "evaluate", "--checkpoint", run, "--output", tmp_path / "scores")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["AR100"] == pytest.approx(logged["val/AR100"][1][-1], abs=1e-6)
    rst(capsys, "predict", "--checkpoint", run, data / "val", "--output", tmp_path / "out", "--threshold", "0")
    assert len(list((tmp_path / "out").glob("*.png"))) == VAL


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_the_real_detector_from_training_to_images(capsys, data, tmp_path, loss):
    run = tmp_path / "run"
    rst(capsys, *training_arguments(data, run, *FASTER_RCNN, "--model.loss", loss, "--ema_decay", "0.9"))
    logged = read_metrics(run / "metrics.csv")
    if loss == "rank_sort":  # the box loss is balanced to the value of the ranking loss (paper, section 4)
        for head in ("rpn", "roi"):
            rank, sort, box = (logged[f"loss_{head}_{term}"][1] for term in ("rank", "sort", "bbox"))
            # where all positives of the R-CNN head are the objects' own boxes, there is nothing to regress
            counted = box > 0 if head == "roi" else np.full(box.shape, True)
            assert counted.any()
            assert box[counted] == pytest.approx((rank + sort)[counted], rel=1e-5)
            assert (box[~counted] == 0).all()
        assert logged["loss_rpn_rank"][1].max() <= 0.2 + 1e-6
    assert np.isfinite(logged["loss"][1]).all()
    rst(capsys, "evaluate", "--checkpoint", run, "--output", tmp_path / "scores")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["AR100"] == pytest.approx(logged["val/AR100"][1][-1], abs=1e-6)
    rst(capsys, "predict", "--checkpoint", run, data / "val", "--output", tmp_path / "out", "--threshold", "0")
    assert len(list((tmp_path / "out").glob("*.png"))) == VAL
    torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
