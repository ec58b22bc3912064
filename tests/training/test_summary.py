"""`rst plot`: the paper's diagnostics in numbers and curves, of one run and of several."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from rst.cli.main import main
from rst.training.curves import draw_curves
from rst.training.heads import HEADS_FILE, read_heads, write_heads
from rst.training.records import METRICS_FILE
from rst.training.summary import LAST, format_summary, summarise

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "sample"
STEPS = 250


@pytest.fixture
def run(tmp_path) -> Path:
    """Two epochs of statistics that are easily averaged by hand; every fifth step has no correlation."""
    rows = []
    for step in range(STEPS):
        positives = 10 if step % 2 else 40
        row = {"step": step, "epoch": int(step >= 100), "loss": 1.0, "loss_roi_rank": 0.5, "val/AP": "", "val/oLRP": ""}
        row["spearman_roi"] = "" if step % 5 == 0 else 0.2 if step < STEPS - LAST else 0.6
        row |= {"positives_roi": positives, "negatives_roi": 400, "negatives_per_positive_roi": 400 / positives}
        row |= {"balance_roi": 5.0 if step == 0 else 2.0 if step < STEPS - LAST else 1.0}
        rows.append(row)
    rows.append({"step": STEPS - 1, "epoch": 1, "val/AP": 0.25, "val/oLRP": 0.75})
    return write(tmp_path / "run", rows)


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    write_heads(folder, {"rpn": "RPN", "roi": "R-CNN", "dense": "dense head"})
    with (folder / METRICS_FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def old_run(folder: Path) -> Path:
    return write(folder, [{"step": step, "epoch": 0, "loss": 1.0, "loss_roi_cls": 0.5} for step in range(30)])


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def test_averages_worked_by_hand(run):
    assert summarise(run) == pytest.approx(
        {
            "spearman_roi": (0.2 * 120 + 0.6 * 80) / 200,
            "spearman_roi_last_100": 0.6,
            "negatives_per_positive_roi": (40 + 10) / 2,
            "negatives_to_positives_roi": 800 / 50,
            "balance_roi": 2.0,
            "balance_roi_largest": 5.0,
        }
    )


def test_the_last_hundred_are_optimiser_steps_also_where_not_every_one_is_logged(tmp_path):
    rows = [{"step": step, "epoch": 0, "spearman_roi": step} for step in range(9, 250, 10)]
    assert summarise(write(tmp_path / "run", rows))["spearman_roi_last_100"] == np.mean(range(159, 250, 10))


def test_plot_prints_them_and_several_runs_stand_side_by_side(run, tmp_path, capsys):
    assert main(["plot", str(run)]) == 0
    one = capsys.readouterr().out
    assert re.search(r"R-CNN: Spearman's correlation, all iterations +0\.360\n", one)
    assert re.search(r"R-CNN: negatives per positive, first epoch, mean of ratios +25\.0\n", one)
    assert "RPN" not in one
    assert one.endswith(f"{run / 'curves.png'}\n")
    other = old_run(tmp_path / "other")
    assert main(["plot", str(run), str(other), "--output", str(tmp_path / "both.png")]) == 0
    both = capsys.readouterr().out
    assert re.search(r"^ +run +other\n", both)
    assert re.search(r"all iterations +0\.360 +-\n", both)
    assert (tmp_path / "both.png").is_file()


def test_several_runs_need_an_output(run, capsys):
    assert main(["plot", str(run), str(run)]) == 2
    assert "--output FILE.png is required" in capsys.readouterr().err


def test_a_run_from_before_the_statistics_still_plots(tmp_path, drawn, capsys):
    assert main(["plot", str(old_run(tmp_path / "old"))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'old' / 'curves.png'}\n"
    assert [axis.get_title() for axis in drawn[0].axes if axis.get_title()] == ["Total loss", "R-CNN losses"]
    assert format_summary({"old": tmp_path / "old"}) == ""


def test_every_diagnostic_has_a_panel(run, drawn):
    draw_curves(run, run / "curves.png")
    panels = {axis.get_title(): axis for axis in drawn[0].axes if axis.get_title()}
    correlation = panels["Spearman's correlation of score and IoU, positives"]
    raw = next(line for line in correlation.lines if line.get_alpha())
    assert len(np.asarray(raw.get_xdata())) == STEPS - STEPS // 5, "no value is no point"
    assert correlation.get_ylim()[0] < 0 < 0.6 < correlation.get_ylim()[1]
    assert panels["Negatives per positive"].get_yscale() == "log"
    assert "Task balance: factor (lambda) of boxes and masks" in panels
    legend = panels["Validation (per cent)"].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["AP", "oLRP (lower is better)"]
    (olrp,) = (line for line in panels["Validation (per cent)"].lines if "oLRP" in str(line.get_label()))
    assert list(np.asarray(olrp.get_ydata())) == [75.0]


def test_a_dense_detector_has_one_head(tmp_path, drawn, capsys):
    row = {"epoch": 0, "loss": 2.0, "loss_rank": 0.9, "loss_bbox": 1.0, "spearman_dense": 0.25, "balance_dense": 3.0}
    folder = write(tmp_path / "dense", [{"step": step, **row} for step in range(5)])
    assert main(["plot", str(folder)]) == 0
    assert re.search(r"^Dense head: Spearman's correlation, all iterations +0\.250$", capsys.readouterr().out, re.M)
    panels = {axis.get_title(): axis for axis in drawn[0].axes if axis.get_title()}
    assert [line.get_label() for line in panels["Losses"].lines if line.get_label()[0] != "_"] == [
        "loss_bbox",
        "loss_rank",
    ]
    assert "dense head" in [
        line.get_label() for line in panels["Task balance: factor (lambda) of boxes and masks"].lines
    ]


def test_a_detector_of_masks_alone_is_said_to_have_masks(tmp_path, drawn):
    row = {"epoch": 0, "loss": 2.0, "loss_rank": 0.9, "loss_mask": 1.0, "spearman_grid": 0.25, "balance_grid": 3.0}
    masks = write(tmp_path / "masks", [{"step": step, **row, "val/segm_AP": 0.1} for step in range(5)])
    boxes = write(tmp_path / "boxes", [{"step": step, "loss_bbox": 1.0, **row} for step in range(5)])
    for runs, quality in (([masks], "Dice"), ([masks, boxes], "IoU or Dice"), ([boxes], "IoU")):
        draw_curves(runs, tmp_path / "curves.png")
        panels = {axis.get_title(): axis for axis in drawn[-1].axes if axis.get_title()}
        assert panels["Task balance: factor (lambda) of boxes and masks"].get_yscale() == "log"
        assert panels[f"Spearman's correlation of score and {quality}, positives"].get_ylim()[1] == 1
        assert ("Validation (per cent)" in panels) == (masks in runs)


def test_heads_that_only_the_metrics_show_have_their_names_for_titles(run, drawn, capsys):
    (run / HEADS_FILE).unlink()
    assert main(["plot", str(run)]) == 0
    assert re.search(r"^Roi: Spearman's correlation, all iterations +0\.360$", capsys.readouterr().out, re.M)
    assert "Roi losses" in [axis.get_title() for axis in drawn[0].axes]


def test_a_head_whose_name_begins_like_anothers_has_its_own_panel(tmp_path, drawn):
    folder = write(tmp_path / "cascade", [{"step": 0, "loss": 3.0, "loss_roi_cls": 1.0, "loss_roi_2_cls": 2.0}])
    write_heads(folder, {"roi": "R-CNN", "roi_2": "second stage"})
    draw_curves(folder, folder / "curves.png")
    lines = {axis.get_title(): [line.get_label() for line in axis.lines] for axis in drawn[0].axes}
    assert "loss_roi_cls" in lines["R-CNN losses"]
    assert "loss_roi_2_cls" not in lines["R-CNN losses"]
    assert "loss_roi_2_cls" in lines["Second stage losses"]


def test_runs_of_one_name_are_told_apart_and_drawn_in_their_own_dashes(run, tmp_path, drawn):
    (tmp_path / "elsewhere").mkdir()
    again = old_run(tmp_path / "elsewhere" / "run")
    draw_curves([run, again], tmp_path / "both.png")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [str(run), str(again)]
    total = drawn[0].axes[0]
    assert [line.get_linestyle() for line in total.lines] == ["-", "--"]


def test_the_ablation_differs_from_the_demo_in_the_sorting_error_alone():
    demo, ablation = (
        yaml.safe_load((CONFIGS / f"rs_faster_rcnn_mobilenetv2{name}.yaml").read_text()) for name in ("", "_no_sorting")
    )
    assert ablation["model"]["init_args"].pop("sorting_error") is False
    assert ablation == demo


def test_a_further_task_of_a_head_has_the_title_of_the_head(tmp_path: Path):
    write_heads(tmp_path, {"rpn": "RPN", "roi": "R-CNN"})
    found = read_heads(tmp_path, ["loss", "balance_roi", "balance_mask_roi", "spearman_other"])
    assert found == {"rpn": "RPN", "roi": "R-CNN", "mask_roi": "R-CNN (mask)", "other": "other"}
