"""The report's part on evaluation and the check of data: goals judged, nothing claimed that was not measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from judging import CHECK, COCO_BOXES, EVALUATION, OURS, PYCOCOTOOLS, judging_tables
from report import write_report
from session import Session, read_session

MASKS = "COCO masks"
MACHINE = {"device": "A device", "device_type": "cpu", "python_version": "3.12.1", "threads": 2, "copy_bandwidth": 1e10}
FACTS: dict[str, Any] = {"left_out": [], "refused": [], "cross_checks": [], "not_measured": {}}


def case(table: str, shape: str, contender: str, seconds: float, rounds: int = 1) -> dict[str, Any]:
    extra = {"table": table, "shape": shape, "contender": contender}
    return {"stats": {"median": seconds, "rounds": rounds}, "extra_info": extra}


def session_with(tmp_path: Path, cases: list[dict[str, Any]]) -> Session:
    written = {"machine_info": MACHINE, "commit": "abc1234", "datetime": "2026-01-02T03:04:05", "facts": FACTS}
    written["benchmarks"] = cases
    (tmp_path / "results.json").write_text(json.dumps(written))
    return read_session(tmp_path / "results.json")


@pytest.fixture
def cases() -> list[dict[str, Any]]:
    return [
        case(EVALUATION, COCO_BOXES, PYCOCOTOOLS, 40.0),
        case(EVALUATION, COCO_BOXES, OURS, 6.0, rounds=3),
        case(EVALUATION, MASKS, OURS, 0.5, rounds=3),
        case(CHECK, "many annotations", "rst data check", 30.0),
    ]


def test_goals_and_tables(tmp_path, cases):
    lines = judging_tables(session_with(tmp_path, cases))
    assert lines.count("| evaluator | s | / rst |") == 2
    assert f"| {PYCOCOTOOLS} | 40.0 once | 6.67 |" in lines
    assert f"| {OURS} | 6.00 | 1.00 |" in lines
    goals = [line for line in lines if "at most" in line]
    assert [goal.split("|")[3:5] for goal in goals] == [
        [" at most 1.3 x ", " 0.15 x: reached "],
        [" at most 60 s ", " 30.0 s: reached "],
    ]
    assert lines[-1] == "`rst data check` ran on many annotations."


@pytest.mark.parametrize(
    ("place", "seconds", "said"), [(1, 53.0, "1.32 x: **missed**"), (3, 61.0, "61.0 s: **missed**")]
)
def test_a_goal_may_be_missed(tmp_path, cases, place, seconds, said):
    cases[place]["stats"]["median"] = seconds
    assert any(line.endswith(f"| {said} |") for line in judging_tables(session_with(tmp_path, cases)))


def test_a_ratio_needs_both_and_nothing_is_claimed_without(tmp_path, cases):
    lines = judging_tables(session_with(tmp_path, cases[:1]))
    assert f"| {PYCOCOTOOLS} | 40.0 once | – |" in lines
    assert sum("not measured in this session" in line for line in lines) == 2
    assert judging_tables(session_with(tmp_path, [])) == ["", "Not measured in this session."]


def test_the_report_has_it_and_its_other_tables_do_not(tmp_path, cases):
    session_with(tmp_path, cases)
    write_report(tmp_path / "results.json", tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    before, _, after = text.partition("## Evaluation and the check of data")
    assert PYCOCOTOOLS in after.partition("\n## ")[0]
    assert not {name for name in (PYCOCOTOOLS, OURS, COCO_BOXES) if name in before}
