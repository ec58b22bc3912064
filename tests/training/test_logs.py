"""Logs go on where a run was stopped; curves are drawn from them."""

import csv

import numpy as np
import pytest
from PIL import Image

from rst.training import ConfigError
from rst.training.curves import draw_curves, read_metrics, smooth
from rst.training.heads import write_heads
from rst.training.loggers import MetricsLogger
from rst.training.records import METRICS_FILE, read_rows


def log_steps(folder, first, last, offset=0.0):
    logger = MetricsLogger(folder, first)
    for step in range(first, last):
        logger.log_metrics({"loss": step + 0.1 + offset, "lr": 1 / 3}, step)
    return logger


def test_rows_are_written_at_once(tmp_path):
    log_steps(tmp_path, 0, 3)  # never finalised, like a killed run
    assert [row["step"] for row in read_rows(tmp_path / METRICS_FILE)] == ["0", "1", "2"]


def test_a_resumed_run_repeats_no_step_and_loses_none(tmp_path):
    log_steps(tmp_path, 0, 10)
    log_steps(tmp_path, 6, 12, offset=100.0).log_metrics({"val/AP": 0.5}, 11)
    steps, values = read_metrics(tmp_path / METRICS_FILE)["loss"]
    assert steps.tolist() == list(range(12))
    assert values.tolist() == [step + 0.1 + 100 * (step >= 6) for step in range(12)], "floats must survive to the bit"
    assert read_metrics(tmp_path / METRICS_FILE)["val/AP"][1].tolist() == [0.5]


def test_a_new_run_starts_an_empty_log(tmp_path):
    log_steps(tmp_path, 0, 4)
    log_steps(tmp_path, 0, 2)
    assert len(read_rows(tmp_path / METRICS_FILE)) == 2


def test_a_kill_while_the_log_is_rewritten_loses_nothing(tmp_path, monkeypatch):
    log_steps(tmp_path, 0, 10)

    def killed(self, rows):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", killed)
        with pytest.raises(KeyboardInterrupt):
            log_steps(tmp_path, 8, 9)
    log_steps(tmp_path, 8, 9)
    assert [row["step"] for row in read_rows(tmp_path / METRICS_FILE)] == [str(step) for step in range(9)]
    assert [file.name for file in tmp_path.iterdir()] == [METRICS_FILE]


def test_a_new_metric_gets_a_column_and_a_value_that_is_not_a_number_an_empty_cell(tmp_path):
    logger = log_steps(tmp_path, 0, 2)
    logger.log_metrics({"loss": 3.0, "spearman_roi": float("nan")}, 2)
    assert "spearman_roi" not in read_rows(tmp_path / METRICS_FILE)[0], "no value so far, no column"
    logger.log_metrics({"spearman_roi": 0.25}, 3)
    rows = read_rows(tmp_path / METRICS_FILE)
    assert [row["spearman_roi"] for row in rows] == ["", "", "", "0.25"]
    assert [row["loss"] for row in rows] == ["0.1", "1.1", "3.0", ""]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    log_steps(tmp_path, 0, 3)
    path = tmp_path / METRICS_FILE
    path.write_text(path.read_text() + "3.1,0.")
    assert len(read_rows(path)) == 3


def test_several_values_of_a_step_are_averaged(tmp_path):
    with (tmp_path / METRICS_FILE).open("w", newline="") as file:
        csv.writer(file).writerows([["loss", "step"], [1.0, 0], [3.0, 0], [5.0, 1]])
    steps, values = read_metrics(tmp_path / METRICS_FILE)["loss"]
    assert (steps.tolist(), values.tolist()) == ([0, 1], [2.0, 5.0])


def test_smoothing_keeps_a_constant_and_the_mean_level():
    assert smooth(np.full(50, 2.5)) == pytest.approx(2.5)
    noisy = np.random.default_rng(0).normal(1.0, 0.5, 6000)
    assert smooth(noisy).std() < 0.1
    assert smooth(noisy).mean() == pytest.approx(1.0, abs=0.05)
    assert len(smooth(np.array([1.0]))) == 1


def test_every_term_is_drawn(tmp_path):
    logger = MetricsLogger(tmp_path)
    terms = ["loss", "loss_rpn_rank", "loss_roi_rank", "loss_mask", "lr"]
    for step in range(30):
        logger.log_metrics(dict.fromkeys(terms, 1 / (step + 1)), step)
    logger.log_metrics({"val/AP": 0.25, "val/AP50": 0.5}, 29)
    write_heads(tmp_path, {"rpn": "RPN", "roi": "R-CNN"})
    image = np.asarray(Image.open(draw_curves(tmp_path, tmp_path / "new" / "curves.png")).convert("RGB"))
    rows = np.array_split(image, 2)
    panels = [part for row in rows for part in np.array_split(row, 3, axis=1)]
    assert len(panels) == 6
    for panel in panels:  # total, RPN, RoI, other, learning rate, validation: each with a line in colour
        colourful = panel.max(axis=-1).astype(int) - panel.min(axis=-1) > 60
        assert colourful.sum() > 100


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.csv: no such file"):
        draw_curves(tmp_path, tmp_path / "curves.png")
    (tmp_path / METRICS_FILE).write_text("loss,step\n")
    with pytest.raises(ConfigError, match="no measurements yet"):
        draw_curves(tmp_path, tmp_path / "curves.png")
