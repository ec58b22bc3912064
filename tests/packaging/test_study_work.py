"""A study as a person runs it, with a stand-in for `rst train`: resumed, failed, interrupted, several at once."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import study_tool
from PIL import Image

main = study_tool.load("__main__").main
work = study_tool.load("work")
figures = study_tool.load("figures")
TRAIN, DRAW_CURVES, DRAW_SPREAD = work.TRAIN, figures.draw_curves, figures.draw_spread

TWO = "config: CONFIG\nseeds: [0, 1]\nvariants:\n  good: {settings: {x: 1}}\n  bad: {settings: {do: %s}}\n"


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "train.py"
    file.write_text(study_tool.TRAIN)
    monkeypatch.setattr(work, "TRAIN", (sys.executable, str(file)))
    monkeypatch.setattr(work, "LOOKING", 0.01)
    monkeypatch.setattr(figures, "draw_curves", lambda groups, file: None)  # a second each
    monkeypatch.setattr(figures, "draw_spread", lambda groups, file: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield file
    for number, handler in handlers.items():
        signal.signal(number, handler)


def study(folder: Path, do: str, *more: str) -> int:
    file = study_tool.write_study(folder, TWO % do)
    return main([str(file), "--output", str(folder / "out"), *more])


def rows(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "out" / "study.csv").open() as file:
        return {(row["variant"], row["seed"]): row for row in csv.DictReader(file)}


def test_all_runs_are_trained_once_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert study(tmp_path, "train", "--jobs", "2") == 0
    printed = capsys.readouterr().out
    assert "4 runs, 0 ended; 2 at once" in printed
    assert "[4/4] " in printed
    assert " seed 1: AP 21.0, " in printed
    assert (
        "| good | 2 | 20.5 ± 0.7 | 41.0 ± 1.4 | 10.2 ± 0.4 | 79.5 ± 0.7 | 20.5 ± 0.7 | 0.50 ± 0.00 | 7 | 4 |" in printed
    )
    assert (tmp_path / "out" / "study.md").read_text() in printed
    row = rows(tmp_path)["bad", "1"]
    assert (row["AP"][:4], row["best_epoch"], row["collapse"], row["balance_roi_largest_at"]) == ("0.21", "2", "", "0")
    log = tmp_path / "out" / "good" / "seed_0" / "train.log"
    assert log.read_text().split()[1] == str(work.threads_each(2))
    assert study(tmp_path, "train") == 0, "and nothing is trained again"
    assert len(log.read_text().splitlines()) == 1


def test_a_failed_run_is_shown_with_its_last_line_and_stops_no_other(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert study(tmp_path, "refuse") == 1
    printed = capsys.readouterr().out
    assert "bad seed 1: failed after 0 s: rst: optimizer.lr must be above 0 (" in printed
    assert "Failed, and not counted:\n\n- bad seed 0\n- bad seed 1\n" in printed
    assert "| bad | 0 of 2 | - |" in printed
    assert (tmp_path / "out" / "good" / "seed_0" / "train.log").read_text() == "threads 3 new\n"
    assert study(tmp_path, "refuse", "--only", "good") == 0
    assert study(tmp_path, "refuse", "--only", "bad/seed_1") == 1, "a failed run is tried again"


@pytest.mark.parametrize(
    ("do", "code", "collapse"),
    [
        ("zero", 0, ["AP stays below 0.1"] * 2),
        ("collapse", 0, ["", "AP 0.1 in epoch 2, after 10.0"]),
        ("diverge", 1, ["not finite", "not finite"]),
    ],
)
def test_collapses_are_counted(tmp_path: Path, capsys, do: str, code: int, collapse: list[str]):
    assert study(tmp_path, do, "--jobs", "4") == code
    assert [rows(tmp_path)["bad", seed]["collapse"] for seed in "01"] == collapse
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| bad |"))
    assert line.split(" | ")[-2] == str(sum(map(bool, collapse)))
    assert line.startswith("| bad | 2 | " + "-" * (do == "diverge"))
    assert study(tmp_path, do) == code, "a run that is no longer finite is not tried again, and still a failure"
    assert len((tmp_path / "out" / "bad" / "seed_0" / "train.log").read_text().splitlines()) == 1 + (do == "diverge")


@pytest.mark.parametrize(
    ("do", "line", "number"), [("wait", "resumed", signal.SIGINT), ("wait early", "new", signal.SIGTERM)]
)
def test_an_interrupted_study_goes_on(tmp_path: Path, stand_in: Path, do: str, line: str, number: int):
    """In a process of its own, which is told to stop while two runs are at work."""
    code = "import sys, study_tool; study_tool.load('work').TRAIN = (sys.executable, sys.argv.pop(1))\n"
    code += "sys.exit(study_tool.load('__main__').main())"
    file = study_tool.write_study(tmp_path, TWO.replace("{x: 1}", "{do: %s}") % (do, do))
    output = tmp_path / "out"
    command = [sys.executable, "-c", code, str(stand_in), str(file), "--output", str(output), "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(study_tool.__file__).parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wanted = "run/checkpoints/last.ckpt" if do == "wait" else "seen"
    deadline = time.monotonic() + 60
    while len(list(output.glob(f"*/seed_0/{wanted}"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert main([str(file), "--output", str(output)]) == 2, "the folder is in use"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "study: interrupted; the same command goes on\n")
    with work.locked(output):
        pass  # which a run that goes on would hold
    assert main([str(file), "--output", str(output), "--only", "seed_0"]) == 0
    log = (output / "good" / "seed_0" / "train.log").read_text()
    assert [text.split()[-1] for text in log.splitlines() if text.startswith("threads")] == ["new", line]


def test_other_settings_need_another_folder(tmp_path: Path, capsys):
    assert study(tmp_path, "train", "--only", "good/seed_0") == 0
    assert study(tmp_path, "train", "--set", "y=2") == 2
    assert "good/seed_0: was trained with other settings (--y=2); take another --output" in capsys.readouterr().err
    file = study_tool.write_study(tmp_path, TWO % "train")
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert main([str(file), "--output", str(tmp_path / "out"), "--table"]) == 2
    assert "(the content of " in capsys.readouterr().err


def test_a_run_that_trained_nothing_takes_other_settings(tmp_path: Path, capsys):
    """A mistake in the study's file is mended in it."""
    assert study(tmp_path, "refuse", "--only", "bad") == 1
    assert study(tmp_path, "train", "--only", "bad") == 0
    assert "bad seed 0: failed" not in capsys.readouterr().out.split("[1/2]")[-1]
    state = json.loads((tmp_path / "out/bad/seed_0/state.json").read_text())
    assert "--do=train" in state["arguments"]
    assert study(tmp_path, "refuse", "--only", "bad") == 2, "but now it has a result"


def test_mistakes_have_exit_code_2_and_leave_nothing(tmp_path: Path, capsys):
    assert study(tmp_path, "train", "--jobs", "0") == 2
    assert study(tmp_path, "train", "--only", "nothing") == 2
    assert main([str(tmp_path / "no.yaml"), "--output", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "no folder has 'nothing', they are like" in errors[1]
    assert not (tmp_path / "out").exists()


def test_a_table_is_written_while_runs_are_missing(tmp_path: Path, capsys):
    assert study(tmp_path, "train", "--only", "good/seed_0") == 0
    with work.locked(tmp_path / "out"):
        assert study(tmp_path, "train", "--table") == 0
    printed = capsys.readouterr().out
    assert "| good | 1 of 2 | 20.0 | " in printed
    assert "| bad | 0 of 2 | - | " in printed


def colours_in(file: Path) -> set[tuple[int, ...]]:
    image = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    return {tuple(colour) for colour in image[image.max(1).astype(int) - image.min(1) > 100].tolist()}


def test_the_figures_show_every_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert study(tmp_path, "collapse", "--jobs", "4") == 0
    monkeypatch.setattr(figures, "draw_curves", DRAW_CURVES)
    monkeypatch.setattr(figures, "draw_spread", DRAW_SPREAD)
    assert study(tmp_path, "collapse", "--table") == 0
    for name in ("curves", "spread"):
        assert {(31, 119, 180), (255, 127, 14)} <= colours_in(tmp_path / "out" / f"{name}.png")


def test_the_figures_leave_out_what_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A variant keeps its colour, whether the others were run or not."""
    monkeypatch.setattr(figures, "draw_curves", DRAW_CURVES)
    monkeypatch.setattr(figures, "draw_spread", DRAW_SPREAD)
    assert study(tmp_path, "train", "--only", "bad") == 0
    for name in ("curves", "spread"):
        file = tmp_path / "out" / f"{name}.png"
        assert (255, 127, 14) in colours_in(file)
        assert (31, 119, 180) not in colours_in(file)


def test_rst_comes_from_the_search_path_and_not_from_the_tree(tmp_path: Path):
    for name in ("path", "tree"):
        package = tmp_path / name / "rst" / "cli"
        package.mkdir(parents=True)
        (package / "main.py").write_text(f"import sys\nprint({name!r}, sys.argv[1:])\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "path")}
    done = subprocess.run([*TRAIN, "--x"], cwd=tmp_path / "tree", env=environment, capture_output=True, text=True)
    assert done.stdout == "path ['train', '--x']\n", done.stderr
