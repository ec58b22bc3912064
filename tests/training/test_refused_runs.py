"""A run that is refused leaves its folder as it was, byte for byte; a new one leaves none."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny_detection import early_stopping, prepare_data, training_arguments

from rst.cli.main import main

ATSS = (
    *("--model", "rst.detectors.atss", "--model.num_classes", "6", "--model.backbone.name", "mobilenet_v2"),
    *("--model.backbone.fpn_channels", "8", "--model.head_channels", "64"),
)


def stopping(**arguments) -> str:
    return f"--trainer.callbacks={early_stopping(**arguments)}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """One epoch of the tiny detector, with an average and early stopping."""
    output = tmp_path_factory.mktemp("run") / "run"
    more = ("--trainer.max_epochs", "1", "--ema_decay", "0.5", stopping(monitor="val/AP", patience=7))
    assert main(training_arguments(data, output, *more)) == 0
    return output


@pytest.fixture(scope="module")
def dense(data, tmp_path_factory):
    """A step of a real detector."""
    output = tmp_path_factory.mktemp("dense") / "run"
    more = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "0")
    assert main(training_arguments(data, output, *ATSS, "--optimizer.lr", "0.001", *more)) == 0
    return output


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def refused(capsys, *arguments, code=2) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1, message
    return message


# What a resume refuses, of the tiny detector.
REFUSED = {
    "another class": (["--model", "rst.detectors.atss", "--model.num_classes", "6"], "model.class_path was tiny_det"),
    "other classes": (["--model.num_classes", "4"], "model.num_classes was 6, now 4"),
    "another argument": (["--model.poison", "loss_roi_cls"], "model.poison was null, now loss_roi_cls"),
    "other weights": (["--model.weights", "w.pt"], "model.weights was null, now w.pt"),
    "no average": (["--ema_decay", "null"], "ema_decay was 0.5, now null"),
    "a misspelt key": (["--optimizer.lrr", "1"], "unknown key optimizer.lrr"),
    "a type": (["--optimizer.lr", "fast"], "optimizer.lr: expected float"),
    "a rate": (["--optimizer.lr", "0"], "optimizer.lr must be a number above 0, got 0.0"),
    "a schedule": (["--schedule.milestones", "[2,1]"], "schedule.milestones must ascend"),
    "a monitor": (["--checkpoints.monitor", "val/APP"], "there is no metric val/APP (did you mean val/AP?)"),
    "a precision": (["--trainer.precision", "bf16-true"], "trainer.precision: must be 32-true, bf16-mixed or 16-mixed"),
    "fewer epochs": (["--trainer.max_epochs", "0"], "trainer.max_epochs: must be at least 1"),
    "no data": (["--data.train_annotations", "none.json"], "none.json: no such file"),
    "a folder": (["--output", "elsewhere"], "leave --config and --output out"),
    "at its end": (["--optimizer.lr", "0.5"], "is at its end, step 6"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_resume_leaves_the_run_as_it_was(run, tmp_path, capsys, kind):
    arguments, words = REFUSED[kind]
    folder = shutil.copytree(run, tmp_path / "copy")
    assert words in refused(capsys, "train", "--resume", folder, *arguments)
    assert content(folder) == content(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone.fpn_channels", 16),
        ("head_channels", 96),
        ("loss", "average_precision"),
        ("backbone.frozen_stages", 2),
    ],
)
def test_a_run_goes_on_with_its_detector(dense, tmp_path, capsys, key, value):
    folder = shutil.copytree(dense, tmp_path / "copy")
    assert f"model.{key} was " in refused(capsys, "train", "--resume", folder, f"--model.{key}", value)
    assert content(folder) == content(dense)


def test_a_truncated_a_foreign_and_an_edited_run_are_refused_untouched(run, dense, data, tmp_path, capsys):
    cut, swapped, other = (shutil.copytree(run, tmp_path / name) for name in ("cut", "swapped", "other"))
    last = cut / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    shutil.copy(dense / "checkpoints" / "last.ckpt", swapped / "checkpoints" / "last.ckpt")
    annotations = json.loads((data / "annotations" / "train.json").read_text())
    annotations["categories"][0]["name"] = "plate"
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(annotations))
    renamed = [f"--data.train_annotations={tmp_path}/train.json", f"--data.val_annotations={tmp_path}/val.json"]
    renamed += [f"--data.val_images={data}/train", "--trainer.max_epochs", "2"]
    for folder, arguments, words in (
        (cut, [], "last.ckpt: not a readable checkpoint"),
        (swapped, [], "model.class_path was rst.detectors.atss, now tiny_detection.tiny_detector"),
        (other, renamed, "was trained on other categories than"),
    ):
        before = content(folder)
        assert words in refused(capsys, "train", "--resume", folder, *arguments)
        assert content(folder) == before
    (other / "config.yaml").write_text("- not\n- a configuration\n")
    assert "config.yaml: holds a list" in refused(capsys, "train", "--resume", other)


def test_a_failure_in_the_first_batch_leaves_the_run_as_it_was(run, data, tmp_path, capsys):
    """An image that cannot be read is met when all else is restored already."""
    broken = shutil.copytree(data, tmp_path / "broken")
    for image in (broken / "train").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    folder = shutil.copytree(run, tmp_path / "copy")
    more = ("--trainer.max_epochs", "2", f"--data.train_images={broken}/train")
    refused(capsys, "train", "--resume", folder, *more)
    assert content(folder) == content(run)


def test_a_run_at_its_end_says_so_and_stays(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "copy")
    assert main(["train", "--resume", str(folder)]) == 0
    assert "is at its end, step 6" in capsys.readouterr().out
    assert content(folder) == content(run)


# Of a new run: what is refused, some of it after the first batch.
NEW = {
    "a monitor": (["--checkpoints.monitor", "val/mAP"], "did you mean val/AP?"),
    "a monitor that is a loss": (["--checkpoints.monitor", "loss"], "there is no metric loss; there are val/AP, "),
    "no validation": (["--checkpoints.monitor", "val/AP", "--trainer.limit_val_batches", "0"], "needs a validation"),
    "a stop": ([stopping(monitor="val/APP")], "EarlyStopping.monitor: there is no metric val/APP (did you mean val/AP"),
    "a stop at a loss": ([stopping(monitor="loss_roi_box")], "(did you mean loss_roi_bbox?); there are loss_roi_cls"),
    "a stop's mode": ([stopping(monitor="loss", mode="least")], "`mode` can be min, max, got least"),
    "a stop unvalidated": ([stopping(monitor="val/AP"), "--trainer.limit_val_batches", "0"], "needs a validation"),
    "saving": (["--checkpoints.every_n_train_steps", "-1"], "checkpoints.every_n_train_steps must not be negative"),
    "keeping": (["--checkpoints.keep_every_n_epochs", "-1"], "checkpoints.keep_every_n_epochs must not be negative"),
    "validating": (["--trainer.val_check_interval", "100"], "`val_check_interval` (100) must be less than"),
    "a step": (["--model.poison", "loss_roi_cls", "--model.poison_call", "1"], "loss_roi_cls = nan"),
}


@pytest.mark.parametrize("kind", NEW)
def test_a_refused_run_leaves_no_folder(data, tmp_path, capsys, kind):
    arguments, words = NEW[kind]
    code = 1 if kind == "a step" else 2
    assert words in refused(capsys, *training_arguments(data, tmp_path / "run", *arguments), code=code)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(data, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    arguments = training_arguments(data, tmp_path / "file" / "run", "--data.train_annotations", "none.json")
    assert f"{tmp_path}/file/run: cannot be written to: Not a directory" in refused(capsys, *arguments, code=1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    arguments = training_arguments(data, tmp_path / "deep" / "run")
    assert "deep/run: cannot be written to: No space left on device" in refused(capsys, *arguments, code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["config.yaml", "heads.json", "metrics.csv", "curves.png"])
def test_a_disk_that_fills_is_named_with_the_file(data, tmp_path, capsys, monkeypatch, name):
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    more = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    message = refused(capsys, *training_arguments(data, tmp_path / "run", *more), code=1)
    assert f"{tmp_path}/run/{name}: cannot be written: No space left on device" in message
    assert not list(tmp_path.rglob(".*")), "no temporary file stays"


def test_the_best_checkpoint_of_an_error_has_the_lowest(data, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    from rst.training import CheckpointSettings, RunFolder, build_trainer

    for monitor, mode in (("val/AP50", "max"), ("val/oLRP", "min"), ("val/segm_oLRP_FN", "min")):
        trainer = build_trainer(RunFolder(tmp_path), CheckpointSettings(monitor=monitor), None, {"accelerator": "cpu"})
        (best,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
        assert (best.monitor, best.mode) == (monitor, mode)


def test_weights_that_a_run_began_with_need_not_be_there_any_more(dense, data, tmp_path):
    folder = shutil.copytree(dense, tmp_path / "run")
    stored = (folder / "config.yaml").read_text()
    assert "weights: null" in stored
    (folder / "config.yaml").write_text(stored.replace("weights: null", "weights: gone.pth"))
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["rst"]["config"] = (folder / "config.yaml").read_text()
    torch.save(checkpoint, path)
    assert main(["train", "--resume", str(folder), "--trainer.max_epochs", "2"]) == 0
