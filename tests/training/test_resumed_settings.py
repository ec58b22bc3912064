"""What a resumed run takes on of changed settings, and that its record says so."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_detection import early_stopping, prepare_data, training_arguments

from rst.cli.config import build_parser, dump_config, parse_config
from rst.cli.main import main
from rst.training import ConfigError
from rst.training.curves import read_metrics
from rst.training.resuming import refuse_changes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """One epoch of the tiny detector, with an average and early stopping."""
    output = tmp_path_factory.mktemp("run") / "run"
    stop = f"--trainer.callbacks={early_stopping(monitor='val/AP', patience=7)}"
    more = ("--trainer.max_epochs", "1", "--ema_decay", "0.5", "--trainer.limit_val_batches", "1", stop)
    assert main(training_arguments(data, output, *more)) == 0
    return output


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """A copy with another value under a dotted key."""
    copy = json.loads(json.dumps(tree))
    *path, last = key.split(".")
    place = copy
    for name in path:
        place = place[name]
    place[last] = None if place[last] is not None else 7
    return copy


EXPERIMENTS = ["rs_faster_rcnn_mobilenetv2", "rs_atss_mobilenetv2"]
SECTIONS = {"seed", "model", "data", "optimizer", "schedule", "ema_decay", "checkpoints", "trainer"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_key_is_taken_on_or_refused_by_name(tree, name):
    """A walk over all settings. A new section has to be decided on: applied, and tested below, or refused."""
    parser, settings = parse_config(["--ema_decay", "0.5"], tree / f"configs/sample/{name}.yaml")
    stored = dump_config(parser, settings)
    former = yaml.safe_load(stored)
    sections = {key.split(".")[0] for key, _ in build_parser().get_defaults().items()}
    assert former.keys() == SECTIONS == sections - {"config"}
    assert refuse_changes(stored, stored, "last.ckpt") == {}
    keys = dict(leaves(former))
    assert len(keys) > 80
    for key in keys:
        now = yaml.safe_dump(changed(former, key))
        fixed = key.startswith("model.") and ".detections." not in key
        if fixed or key == "ema_decay":
            with pytest.raises(ConfigError, match=rf"last.ckpt: .*{key.replace('init_args.', '')} was .*, now "):
                refuse_changes(stored, now, "last.ckpt")
        else:
            assert list(refuse_changes(stored, now, "last.ckpt")) == [key]


def test_a_key_that_a_former_version_did_not_have_is_no_change():
    former = "model: {class_path: a.b, init_args: {width: 1, box: {a: 1}}}"
    assert refuse_changes("", former, "last.ckpt") == {}
    assert refuse_changes(former, former.replace("width: 1", "width: 1, depth: 2"), "last.ckpt") == {}
    with pytest.raises(ConfigError, match=r"model.box.a was 1, now null"):
        refuse_changes(former, former.replace("{a: 1}", "null"), "last.ckpt")


def test_a_checkpoint_holds_no_other_state(run):
    """What it restores is compared with the settings, or cannot be set; new kinds of state have to be decided on."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint.keys() == {
        *("epoch", "global_step", "loops", "pytorch-lightning_version"),  # counters
        *("state_dict", "current_model_state", "averaging_state"),  # the model, whose settings stay
        *("optimizer_states", "lr_schedulers", "callbacks"),  # tested below
        "rst",
    }


def resumed(run: Path, folder: Path, *arguments: str) -> dict:
    """A further epoch under other settings; its last checkpoint."""
    shutil.copytree(run, folder)
    assert main(["train", "--resume", str(folder), "--trainer.max_epochs", "2", *arguments]) == 0
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in zip(arguments[::2], arguments[1::2], strict=True):
        section, _, name = key.removeprefix("--").partition(".")
        found = settings[section][name] if name else settings[section]
        wanted = json.loads(value)
        is_part = isinstance(found, dict) and found["init_args"].items() >= wanted["init_args"].items()
        assert found == wanted or is_part, f"{key} is on record"
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_every_setting_of_optimizer_and_schedule_is_applied(run, tmp_path):
    """A walk over the settings: each gets another value, and the optimiser of the next checkpoint has it."""
    before = yaml.safe_load((run / "config.yaml").read_text())
    optimizer = {key: value / 2 for key, value in before["optimizer"].items()}
    schedule = {"warmup_iterations": 9, "warmup_factor": 0.5, "milestones": [1.5], "gamma": 0.25}
    assert schedule.keys() == before["schedule"].keys() - {"cosine_epochs"}, "next test"
    assert not schedule.items() & before["schedule"].items()
    asked = [("optimizer", optimizer), ("schedule", schedule)]
    arguments = [text for section, own in asked for key, v in own.items() for text in (f"--{section}.{key}", str(v))]
    checkpoint = resumed(run, tmp_path / "run", *arguments)
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    for key, value in optimizer.items():
        assert group["initial_lr" if key == "lr" else key] == value, key
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == [optimizer["lr"]]
    steps, rates = read_metrics(tmp_path / "run" / "metrics.csv")["lr"]
    factors = [0.5 + 0.5 * step / 9 if step < 9 else 0.25 for step in range(6, 12)]
    assert steps.tolist() == list(range(12))
    assert rates[6:] == pytest.approx([optimizer["lr"] * factor for factor in factors], rel=1e-6)


def test_a_schedule_of_milestones_goes_on_as_a_cosine(run, tmp_path):
    asked = ("--schedule.milestones", "[]", "--schedule.cosine_epochs", "4", "--schedule.warmup_iterations", "0")
    resumed(run, tmp_path / "run", *asked)
    _, rates = read_metrics(tmp_path / "run" / "metrics.csv")["lr"]
    assert rates[6:] == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi / 4))] * 6, rel=1e-6)


def test_milestones_stay_epochs_when_epochs_change_their_length(run, tmp_path):
    """Six steps of the first epoch, then three an epoch: the second begins at step 6, its middle is 7.5."""
    resumed(run, tmp_path / "run", "--data.images_per_batch", "4", "--schedule.milestones", "[1.5]")
    _, rates = read_metrics(tmp_path / "run" / "metrics.csv")["lr"]
    assert rates[6:] == pytest.approx([0.1, 0.1, 0.01], rel=1e-6)


def test_arguments_of_callbacks_are_todays_and_their_progress_is_the_checkpoints(run, tmp_path):
    checkpoint = resumed(run, tmp_path / "run", "--trainer.callbacks", early_stopping(monitor="val/AP", patience=3))
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping"))
    assert state["patience"] == 3
    assert state["wait_count"] >= 1, "both epochs"


def test_an_average_may_begin_and_change_its_pace(run, data, tmp_path, capsys):
    plain = tmp_path / "plain"
    assert main(training_arguments(data, plain, "--trainer.max_epochs", "1")) == 0
    assert "averaging_state" in resumed(plain, tmp_path / "begun", "--ema_decay", "0.5")
    resumed(run, tmp_path / "slower", "--ema_decay", "0.9")
    assert capsys.readouterr().err == ""
