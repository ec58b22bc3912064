"""`rst data check`: what it prints and writes, its exit codes, and mistakes in its arguments."""

import json
import os
import sys
from pathlib import Path

import pytest
from spoilt_sets import TWENTY, SpoiltSet

from rst.cli.main import main
from rst.data.check import KINDS
from rst.data.samples import shapes


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "shapes"
    shapes.prepare(folder, train=50, val=4, side=96, seed=4)
    return folder


def run(*arguments: object) -> int:
    return main(["data", "check", *map(str, arguments)])


def test_a_clean_set_has_exit_code_0_and_its_statistics(clean, capsys):
    assert run(clean / "annotations/train.json", clean / "train") == 0
    printed, complained = capsys.readouterr()
    assert printed.endswith("rst: no faults found\n")
    assert complained == ""
    assert "pictures   50: " in printed
    assert "classes    6: half of the objects are of " in printed
    assert "P2 (32 px) " in printed
    assert "error" not in printed
    assert "note: category ids have gaps (3, 5-6, 8-10, 12-15)" in printed


def test_errors_have_exit_code_1_and_a_report_with_everything(clean, tmp_path, capsys):
    spoilt = SpoiltSet(clean, "train", tmp_path)
    planted = [plant(spoilt) for plant in TWENTY]
    spoilt.write()
    assert run(spoilt.annotations, spoilt.images, "--masks", "--decode", "--output", tmp_path / "report.json") == 1
    printed = capsys.readouterr().out
    assert "rst: 14 errors, 6 warnings: training would fail" in printed
    for kind, _, entry_id in planted:
        level = "error" if KINDS[kind] != "never" else "warning"
        remedy = ", or train without them: --data.faulty_boxes leave_out" * (KINDS[kind] in ("boxes", "shapes"))
        assert f"{level}: {kind} (1){remedy}\n    " in printed
        assert f" {entry_id}" in printed
    assert printed.index("warning: ") > printed.rindex("error: "), "errors first"
    report = json.loads((tmp_path / "report.json").read_text())
    assert sorted((f["kind"], f["subject"], f["id"]) for f in report["findings"]) == sorted(planted)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_progress_is_shown_on_a_terminal_even_one_that_does_not_know_its_size(clean, monkeypatch):
    import pty

    ours, theirs = pty.openpty()  # 0 columns wide, 0 lines high
    os.set_blocking(ours, False)  # nothing to read is a failure, nothing to wait for
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert run(clean / "annotations/train.json", clean / "train") == 0
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    for step in ("reading 0 MiB of JSON ...", "masks:   0%|", "pictures:   0%|", "/50 ["):
        assert step in shown


def test_warnings_alone_have_exit_code_0(clean, tmp_path, capsys):
    spoilt = SpoiltSet(clean, "train", tmp_path)
    for entry in spoilt.content["annotations"]:
        entry["area"] = 10**6
    spoilt.write()
    assert run(spoilt.annotations, "--images", spoilt.images, "--show", 2) == 0
    printed = capsys.readouterr().out
    objects = sum(not entry["iscrowd"] for entry in spoilt.content["annotations"])
    assert f"warning: area larger than the box ({objects})\n" in printed
    assert f"    ... and {objects - 2} more (--show {objects}, or --output FILE)" in printed
    assert printed.endswith(f"rst: 0 errors, {objects} warnings: training would work\n")


def test_faulty_boxes_left_out_are_warnings(clean, tmp_path):
    spoilt = SpoiltSet(clean, "train", tmp_path)
    spoilt.object()["bbox"] = [5, 5, 0, 0]
    spoilt.write()
    assert run(spoilt.annotations, spoilt.images) == 1
    assert run(spoilt.annotations, spoilt.images, "--faulty-boxes", "leave_out") == 0


def test_a_broken_file_has_exit_code_1(clean, tmp_path, capsys):
    (tmp_path / "broken.json").write_text('{"images": [1,\n]')
    assert run(tmp_path / "broken.json", clean / "train") == 1
    assert "error: malformed file (1)\n    malformed JSON at line 2, column 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: rst data check ANNOTATIONS IMAGES"),
        (["{a}"], "name the folder of the pictures once"),
        (["{a}", "{i}", "--images", "{i}"], "name the folder of the pictures once"),
        (["nowhere.json", "{i}"], "nowhere.json: no such file"),
        (["{a}", "nowhere"], "nowhere: no such folder (should hold the pictures of"),
        (["{a}", "{i}", "--decode", "--no-headers"], "--decode looks at all of each picture"),
        (["{a}", "{i}", "--short-side", "0"], "--short-side must lie in [1, --max-side 1333], got 0"),
        (["{a}", "{i}", "--anchor-scale", "0"], "--anchor-scale must be positive, got 0.0"),
        (["{a}", "{i}", "--output", "no/where.json"], "there is no folder no"),
        (["{a}", "{i}", "--mask"], "unrecognized arguments: --mask"),
        (["{a}", "{i}", "--faulty-boxes", "drop"], "invalid choice: 'drop'"),
    ],
)
def test_mistakes_in_the_arguments_have_exit_code_2(clean, capsys, arguments, message):
    paths = {"{a}": str(clean / "annotations/val.json"), "{i}": str(clean / "val")}
    assert run(*[paths.get(argument, argument) for argument in arguments]) == 2
    printed, complained = capsys.readouterr()
    assert message in complained + printed
    assert "Traceback" not in complained


def test_help_names_every_kind_of_fault_and_the_codes(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for words in ("exit code: 1 if there are errors", "0 if there", "2 for a mistake", "--faulty-boxes", "--decode"):
        assert words in printed
