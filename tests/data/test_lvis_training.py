"""The LVIS path from files to figures: `rst train` with repeat-factor sampling on the procedural set in LVIS's form."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_detection import training_arguments

from rst.cli.main import main
from rst.data import DetectionData
from rst.data.samples import shapes
from rst.training import load_checkpoint
from rst.training.curves import read_metrics

SUPPORT = Path(__file__).resolve().parents[1] / "support"
CLASSES, IMAGES = 60, 10
REPEATS = ("--data.repeat_threshold", "0.3", "--data.iou_crop", "true", "--data.photometric", "true")
MEASURED = {"it_per_s", "memory_MiB"}  # differ from run to run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvis") / "set"
    shapes.prepare(folder, train=IMAGES, val=4, side=64, seed=2, variant="lvis", classes=CLASSES)
    return folder


@pytest.fixture(autouse=True)
def _interrupt_handler():
    """Lightning ignores further interrupts after the first."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    roots = (f"--data.{split}_images={data}" for split in ("train", "val"))
    return training_arguments(data, output, *roots, "--model.num_classes", str(CLASSES), *REPEATS, *more)


def callback(name: str, **options: object) -> str:
    return "--trainer.callbacks=" + json.dumps({"class_path": f"tiny_detection.{name}", "init_args": options})


def curves(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    found = read_metrics(run / "metrics.csv")
    return {name: (steps.tolist(), values.tolist()) for name, (steps, values) in found.items() if name not in MEASURED}


def repeated_images(data: Path) -> float:
    """The sum of the repeat factors."""
    files = (data / "annotations/train.json", data, data / "annotations/val.json", data)
    module = DetectionData(*files)
    module.setup("fit")
    return float(module.train_set.repeat_factors(0.3).sum())


def test_epochs_are_longer_and_a_run_stopped_within_one_goes_on_exactly(data, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(arguments(data, whole)) == 0
    steps = curves(whole)["loss"][0]
    assert repeated_images(data) > IMAGES
    assert len(steps) == 2 * int(np.ceil(np.ceil(repeated_images(data)) / 2))
    assert {"val/AP", "val/APr", "val/APc"} <= set(curves(whole)), "evaluated as LVIS is"
    middle = len(steps) - 2
    assert (
        main(arguments(data, stopped, "--checkpoints.every_n_train_steps", "1", callback("InterruptAt", step=middle)))
        == 130
    )
    assert load_checkpoint(stopped / "checkpoints" / "last.ckpt")["global_step"] == middle
    assert main(["train", "--resume", str(stopped), "--trainer.callbacks", "null"]) == 0
    assert curves(stopped) == curves(whole)


def test_other_repeats_within_an_epoch_are_refused(data, tmp_path, capsys):
    stop = callback("InterruptAt", step=3)
    run = tmp_path / "run"
    assert main(arguments(data, run, "--checkpoints.every_n_train_steps", "1", stop)) == 130
    resume = ["train", "--resume", str(run), "--trainer.callbacks", "null"]
    assert main([*resume, "--data.repeat_threshold", "0.2"]) == 2
    assert "cannot resume within an epoch (epoch 0, batch 3) under another order of images" in capsys.readouterr().err


def test_both_roundings_are_kept_with_the_run(data, tmp_path):
    run = tmp_path / "run"
    more = ("--data.repeat_rounding", "up", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    assert main(arguments(data, run, *more)) == 0
    stored = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert (stored["repeat_threshold"], stored["repeat_rounding"]) == (0.3, "up")


@pytest.mark.slow
def test_two_processes_killed_within_an_epoch_go_on_exactly(data, tmp_path):
    def train(*words: str, code: int) -> None:
        command = [sys.executable, "-m", "rst.cli.main", *words]
        environment = os.environ | {"PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stderr

    def record(name: str) -> str:
        (tmp_path / name).mkdir()
        return callback("RecordParameters", folder=str(tmp_path / name))

    two = ("--trainer.devices", "2", "--checkpoints.every_n_train_steps", "1", "--trainer.max_epochs", "1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(*arguments(data, whole, *two, record("a")), code=0)
    steps = len(curves(whole)["loss"][0])
    kill = callback("KillAt", step=steps - 2)
    train(*arguments(data, killed, *two, kill), code=-signal.SIGKILL)
    train("train", "--resume", str(killed), record("b"), code=0)
    assert steps >= 4
    assert curves(killed) == curves(whole)
    for rank in (0, 1):
        ours, theirs = (torch.load(tmp_path / run / f"parameters_{rank}.pt", weights_only=True) for run in ("a", "b"))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
