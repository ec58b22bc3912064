"""Whole runs of a tiny detector through `rst train`: what is logged, saved, resumed and refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_detection import TRAIN, prepare_data, tiny_detector, training_arguments

from rst.cli.main import main
from rst.training import DetectionTraining, load_checkpoint
from rst.training.checkpoints import model_state
from rst.training.curves import read_metrics

SUPPORT = Path(__file__).resolve().parents[1] / "support"
STEPS = 12  # 2 epochs of TRAIN / 2 images a step
MEASURED = {"it_per_s", "memory_MiB"}  # differ from run to run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("reference") / "run"
    assert main(training_arguments(data, output)) == 0
    return output


@pytest.fixture(scope="module")
def first_epoch(data, tmp_path_factory):
    """The first half of the reference, with one checkpoint of every kind."""
    output = tmp_path_factory.mktemp("first") / "run"
    more = ("--trainer.max_epochs", "1", "--checkpoints.keep_every_n_epochs", "1")
    assert main(training_arguments(data, output, *more)) == 0
    return output


@pytest.fixture(autouse=True)
def _interrupt_handler():
    """Lightning ignores further interrupts after the first."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def curves(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    return {
        name: (steps.tolist(), values.tolist())
        for name, (steps, values) in read_metrics(run / "metrics.csv").items()
        if name not in MEASURED
    }


def number_of_objects(data: Path) -> int:
    annotations = json.loads((data / "annotations" / "train.json").read_text())["annotations"]
    return sum(not annotation.get("iscrowd") for annotation in annotations)


def train(data, output, *more, code=0):
    assert main(training_arguments(data, output, *more)) == code
    return output


def callback(name, **arguments):
    return "--trainer.callbacks=" + json.dumps({"class_path": f"tiny_detection.{name}", "init_args": arguments})


def test_every_term_and_the_learning_rate_are_logged_at_every_step(reference):
    logged = read_metrics(reference / "metrics.csv")
    for name in ("loss", "loss_roi_cls", "loss_roi_bbox", "lr", "memory_MiB"):
        assert logged[name][0].tolist() == list(range(STEPS)), name
    total = logged["loss_roi_cls"][1] + logged["loss_roi_bbox"][1]
    assert logged["loss"][1] == pytest.approx(total, rel=1e-6)
    warm_up = [0.1 * (0.001 + 0.999 * step / 3) for step in range(3)]
    assert logged["lr"][1] == pytest.approx([*warm_up, 0.1, 0.1, 0.1, *[0.01] * 6], rel=1e-6)
    assert (logged["memory_MiB"][1] > 50).all(), "MiB of this process"
    assert (logged["it_per_s"][1] > 0).all()
    assert logged["val/AP"][0].tolist() == [5, 11], "after each epoch"


def test_statistics_are_logged_where_they_have_a_value(data, reference):
    logged = read_metrics(reference / "metrics.csv")
    steps, objects = logged["positives_roi"]
    assert steps.tolist() == list(range(STEPS))
    assert objects.sum() == 2 * number_of_objects(data), "each image once in each of two epochs"
    steps, values = logged["spearman_roi"]
    assert 0 < len(steps) < STEPS, "only steps with a star have a value"
    assert np.isfinite(values).all()
    assert "nan" not in (reference / "metrics.csv").read_text()
    events = EventAccumulator(str(reference / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("spearman_roi")] == steps.tolist()


class OneOfTwo:
    """Stands for a trainer of two processes: the other one's values are given."""

    def __init__(self, other: list[float]):
        self.strategy, self.other = self, other

    def reduce(self, values, reduce_op):
        assert reduce_op == "mean"
        return (values + torch.tensor(self.other)) / 2


@pytest.mark.parametrize(
    ("ours", "other", "expected"), [(0.5, (0.25, 1), 0.375), (np.nan, (0.25, 1), 0.25), (0.5, (0, 0), 0.5)]
)
def test_a_statistic_is_the_mean_of_the_processes_that_have_it(ours, other, expected):
    module = DetectionTraining(tiny_detector())
    module._trainer = OneOfTwo([3.0, *other])
    terms, statistics = module._over_processes({"loss": torch.tensor(1.0)}, {"spearman_roi": torch.tensor(ours)})
    assert (terms, statistics) == ({"loss": 2.0}, {"spearman_roi": expected})


def test_a_statistic_that_no_process_has_is_no_fault():
    module = DetectionTraining(tiny_detector())
    module._trainer = OneOfTwo([3.0, 0.0, 0.0])
    terms, statistics = module._over_processes({"loss": torch.tensor(1.0)}, {"spearman_roi": torch.tensor(np.inf)})
    assert terms == {"loss": 2.0}
    assert np.isnan(statistics["spearman_roi"])


def test_a_run_leaves_what_the_next_command_needs(reference):
    found = {str(path.relative_to(reference)) for path in reference.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "curves.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= found
    assert any(name.startswith("tensorboard/events") for name in found)
    checkpoint = load_checkpoint(reference / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == STEPS
    assert checkpoint["rst"]["class_names"] == ["disc", "star", "ring", "bar", "crescent", "triangle"]
    assert checkpoint["rst"]["config"] == (reference / "config.yaml").read_text()
    settings = yaml.safe_load((reference / "config.yaml").read_text())
    assert settings["model"]["init_args"]["num_classes"] == 6, "defaults are resolved"
    assert settings["trainer"]["max_epochs"] == 2


def test_the_stored_configuration_trains_the_same_again(reference, tmp_path):
    assert main(["train", "--config", str(reference / "config.yaml"), "--output", str(tmp_path / "again")]) == 0
    assert curves(tmp_path / "again") == curves(reference)


def test_another_seed_is_another_run(data, reference, tmp_path):
    other = curves(train(data, tmp_path / "run", "--seed", "1", "--trainer.max_epochs", "1"))
    assert other["loss"][1][0] != curves(reference)["loss"][1][0]


@pytest.mark.slow
@pytest.mark.parametrize("average", [(), ("--ema_decay", "0.8")], ids=["plain", "averaged"])
def test_a_killed_run_resumes_exactly(data, reference, tmp_path, average):
    """SIGKILL within an epoch, between two checkpoints; then step by step the losses of the undisturbed run."""
    undisturbed = train(data, tmp_path / "undisturbed", *average) if average else reference
    killed = tmp_path / "killed"
    kill = callback("KillAt", step=10 if average else 6)
    command = [sys.executable, "-m", "rst.cli.main", *training_arguments(data, killed, *average, kill)]
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(SUPPORT)}, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    step = load_checkpoint(killed / "checkpoints" / "last.ckpt")["global_step"]
    assert step == (8 if average else 6), "the last multiple of 4 before the kill, or the end of the epoch"
    assert main(["train", "--resume", str(killed), "--trainer.callbacks", "null"]) == 0
    assert curves(killed) == curves(undisturbed)
    ours, theirs = (load_checkpoint(run / "checkpoints" / "last.ckpt") for run in (killed, undisturbed))
    for name in ("state_dict", "current_model_state", "averaging_state"):
        assert (name in ours) == (name in theirs)
        for key, value in theirs.get(name, {}).items():
            assert torch.equal(ours[name][key], value), f"{name} {key}"


@pytest.mark.parametrize("name", ["best", "last", "epoch_000"])
def test_resuming_from_every_kind_of_checkpoint_gives_the_same_end(data, reference, first_epoch, tmp_path, name):
    """best and epoch_* are saved at an epoch's end, after the validation; the folder has been copied meanwhile."""
    run = shutil.copytree(first_epoch, tmp_path / "copied")
    checkpoint = run / "checkpoints" / f"{name}.ckpt"
    assert main(["train", "--resume", str(checkpoint), "--trainer.max_epochs", "2"]) == 0
    assert curves(run) == curves(reference)
    assert (run / "config_until_step_6.yaml").is_file(), "the settings of the first epoch are kept"
    last = load_checkpoint(run / "checkpoints" / "last.ckpt")
    (best,) = (state for state in last["callbacks"].values() if state.get("monitor") == "val/AP")
    assert best["best_model_path"] == str(run / "checkpoints" / "best.ckpt")
    assert best["best_model_score"].item() == pytest.approx(max(curves(run)["val/AP"][1]), abs=1e-6)


def test_accumulated_gradients_step_half_as_often_and_resume(data, tmp_path):
    halves = ("--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5")
    halves = (*halves, "--checkpoints.every_n_train_steps", "2")
    whole = train(data, tmp_path / "whole", *halves)
    assert curves(whole)["loss"][0] == list(range(STEPS // 2))
    stop = callback("InterruptAt", step=5)
    stopped = train(data, tmp_path / "stopped", *halves, stop, code=130)
    assert main(["train", "--resume", str(stopped), "--trainer.callbacks", "null"]) == 0
    assert curves(stopped) == curves(whole)


def test_averaged_weights_are_what_is_validated_and_kept(data, tmp_path):
    run = train(data, tmp_path / "run", "--ema_decay", "0.5", "--trainer.max_epochs", "1")
    checkpoint = load_checkpoint(run / "checkpoints" / "last.ckpt")
    averaged = model_state(checkpoint)["head.weight"]
    current = checkpoint["current_model_state"]["model.head.weight"]
    assert not torch.equal(averaged, current)
    # momentum moves the weights by up to ten learning rates a step: the average lies close to them, not on them
    assert (averaged - current).abs().max() < 1.0


def test_bfloat16(data, tmp_path):
    run = train(data, tmp_path / "run", "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1")
    assert np.isfinite(curves(run)["loss"][1]).all()
    state = model_state(load_checkpoint(run / "checkpoints" / "last.ckpt"))
    assert state["head.weight"].dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(data, tmp_path, capsys):
    poison = ("--model.poison", "loss_roi_bbox", "--model.poison_call", "6")
    run = train(data, tmp_path / "run", *poison, code=1)
    message = capsys.readouterr().err
    assert "loss_roi_bbox = nan, loss = nan at step 5 (epoch 1" in message
    assert "--optimizer.lr" in message
    assert "Traceback" not in message
    state = model_state(load_checkpoint(run / "checkpoints" / "last.ckpt"))
    assert all(value.isfinite().all() for value in state.values())


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(data, tmp_path, capsys):
    run = train(data, tmp_path / "run", callback("InterruptAt", step=5), code=130)
    assert f"rst train --resume {run}" in capsys.readouterr().err
    train(data, tmp_path / "early", callback("InterruptAt", step=2), code=130)
    assert "interrupted; no checkpoint was saved yet" in capsys.readouterr().err, "there is nothing to go on from"


@pytest.mark.slow
def test_two_processes_train_one_model(data, tmp_path):
    run = tmp_path / "run"
    record = callback("RecordParameters", folder=str(tmp_path))
    arguments = training_arguments(data, run, "--trainer.devices", "2", "--trainer.max_epochs", "1", record)
    process = subprocess.run(
        [sys.executable, "-m", "rst.cli.main", *arguments],
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert "warn" not in process.stderr.lower()
    assert process.stdout.count("rst: training in") == 1
    assert process.stdout.count("AP50") == 2, "one line after the validation, one table"
    first, second = (torch.load(tmp_path / f"parameters_{rank}.pt", weights_only=True) for rank in (0, 1))
    start = tiny_detector().state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert not torch.equal(value, start[name]), name
    assert curves(run)["loss"][0] == list(range(TRAIN // 4)), "each step logged once, two images per process"
    assert sum(curves(run)["positives_roi"][1]) == pytest.approx(number_of_objects(data) / 2), "means of two"
    assert main(["evaluate", "--checkpoint", str(run), "--trainer.devices", "1"]) == 0
    # the detections that two processes gathered score like those of one
    metrics = yaml.safe_load((run / "evaluation" / "metrics.json").read_text())
    assert metrics["AR100"] == pytest.approx(curves(run)["val/AR100"][1][-1], abs=1e-6)


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path, capsys):
    """The fourth step's loss is finite, its gradient is not, and a checkpoint is due: the one before stays."""
    poison = callback("PoisonGradients", step=3)
    run = train(data, tmp_path / "run", poison, "--checkpoints.every_n_train_steps", "2", code=1)
    assert "parameter head.weight is no longer finite after step 3" in capsys.readouterr().err
    checkpoint = load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in model_state(checkpoint).values())
