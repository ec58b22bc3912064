"""Speed, memory and time to go: measured, and shown to a person."""

import re
import sys
import time
from types import SimpleNamespace

import pytest
from tiny_detection import prepare_data, training_arguments

from rst.cli.main import main
from rst.cli.train import _is_first_process
from rst.training.callbacks import Bar, Lines, TimeToGo, progress_bar
from rst.training.curves import read_metrics


def trainer_at(step, *, batches=10, accumulated=1, epochs=3, max_steps=-1):
    return SimpleNamespace(
        global_step=step,
        num_training_batches=batches,
        accumulate_grad_batches=accumulated,
        max_epochs=epochs,
        max_steps=max_steps,
    )


@pytest.fixture
def clock(monkeypatch):
    """time.perf_counter, set by hand."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    return now


def test_time_to_go_is_proportional_to_the_steps_left(clock):
    estimate = TimeToGo()
    assert estimate.seconds(trainer_at(1)) is None, "the first step says nothing about the others"
    clock.seconds += 8.0
    assert estimate.seconds(trainer_at(5)) == pytest.approx(25 * 2.0)
    clock.seconds += 50.0
    assert estimate.seconds(trainer_at(30)) == 0.0


def test_time_to_go_of_a_resumed_run_counts_its_own_steps(clock):
    estimate = TimeToGo()
    estimate.seconds(trainer_at(20))
    clock.seconds += 3.0
    assert estimate.seconds(trainer_at(21)) == pytest.approx(9 * 3.0)


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"accumulated": 3}, 4 * 3 - 2),  # a last, smaller step in each epoch
        ({"max_steps": 7}, 7 - 2),
        ({"epochs": -1, "max_steps": 7}, 7 - 2),
        ({"epochs": -1}, None),
        ({"batches": float("inf")}, None),
    ],
)
def test_time_to_go_knows_where_the_end_is(clock, limits, left):
    estimate = TimeToGo()
    estimate.seconds(trainer_at(1, **limits))
    clock.seconds += 1.0
    assert estimate.seconds(trainer_at(2, **limits)) == left


def test_a_terminal_gets_a_bar_and_a_file_lines(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(progress_bar(), Bar)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert isinstance(progress_bar(), Lines)


@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "bar"])
def test_what_a_person_sees(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr("rst.training.run.progress_bar", Bar if terminal else Lines)
    data = prepare_data(tmp_path / "data")
    assert main(training_arguments(data, tmp_path / "run")) == 0
    shown = re.split(r"[\r\n]+", capsys.readouterr().out)
    (last,) = [line for line in shown if re.search(r"poch 2/2.* 6/6", line)][-1:]
    for figure in (r"\d ?it/s", r"loss[ =]\d\.\d", r"lr[ =]0\.01", r"AP[ =]\d", r"mem[ =]\d+MiB", r"ETA[ =]0:00:00"):
        assert re.search(figure, last), last
    assert not any("nan" in line or "v_num" in line for line in shown)


def test_terms_and_speed_are_logged_in_the_steps_that_lightning_stores(tmp_path):
    data = prepare_data(tmp_path / "data")
    rare = ("--trainer.log_every_n_steps", "2", "--trainer.accumulate_grad_batches", "2")
    assert main(training_arguments(data, tmp_path / "run", *rare)) == 0
    curves = read_metrics(tmp_path / "run" / "metrics.csv")
    assert curves["memory_MiB"][0].tolist() == curves["loss"][0].tolist() == [1, 3, 5], "every second of six steps"


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_only_one_process_of_a_run_writes_its_folder(monkeypatch, environment, first):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _is_first_process() is first
