"""The report of `make gpu` from what parts left behind: whole, of a part, or of nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from gpu_run.results import merge, timeline_section, training_section, write_results

FACTS: dict[str, Any] = {"left_out": [], "refused": [], "cross_checks": [], "not_measured": {}}
MACHINE = {"device": "A GPU", "device_type": "cuda", "python_version": "3.12.3", "threads": 16, "copy_bandwidth": 3e12}


def session(contender: str, **facts: Any) -> dict[str, Any]:
    extra = {
        "table": "head",
        "shape": "RPN, all anchors",
        "stage": "early",
        "contender": contender,
        "kind": "pointwise",
    }
    extra |= {"logits": 1_070_160, "positives": 160, "host": 1e-4}
    return {
        "machine_info": MACHINE,
        "commit": "abc1234",
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [{"stats": {"median": 1e-3, "rounds": 5}, "extra_info": extra}],
        "facts": {**FACTS, **facts},
    }


def row(name: str, result: str = "passed", note: str = "") -> dict[str, Any]:
    return {"name": name, "title": f"what {name} does", "result": result, "note": note, "seconds": 12.3}


@pytest.fixture
def state(tmp_path) -> Path:
    """Two parts with benchmarks, of which the second was cut off."""
    folder = tmp_path / "state"
    for name, text in (("one", json.dumps(session("sigmoid focal loss"))), ("two", '{"machine_info": {')):
        (folder / name).mkdir(parents=True)
        (folder / name / "benchmarks.json").write_text(text)
    (folder / "one" / "clocks.csv").write_text("1980, 2619, 650, 55\n1755, 2619, 640, 61\n")
    rows = [row("one"), row("two", "out of time", "stopped at its limit"), row("timeline"), row("training", "not run")]
    run = {"device": "A GPU", "commit": "abc1234-dirty", "sources": "0123", "parts": rows, "command": "make gpu"}
    (folder / "run.json").write_text(json.dumps(run | {"clocks": {"driver_version": "580.1", "power.limit": "700"}}))
    return folder


def test_a_report_has_what_was_measured_and_says_what_was_not(state, tmp_path):
    target = tmp_path / "results" / "a-gpu.md"
    write_results(state, target)
    text = target.read_text()
    assert "commit abc1234-dirty" in text
    assert "Written by `make gpu`." in text
    assert "| one | what one does | passed | 12 | 1755 to 1980 | 2619 | 640 to 650 | 55 to 61 |" in text
    assert "| two | what two does | **out of time: stopped at its limit** | 12 | – | – | – | – |" in text
    assert "Sources 0123. nvidia-smi: driver_version 580.1, power.limit 700." in text
    assert "| sigmoid focal loss | – | 1.00 | – | 0.1 |" in text
    _, _, after = text.partition("## Training of the demo")
    assert after.strip() == "Not measured in this session."
    assert sorted(path.name for path in target.parent.iterdir()) == ["a-gpu.md"], "nothing half written"


def test_plots_of_an_earlier_report_do_not_stay(state, tmp_path):
    target = tmp_path / "results" / "a-gpu.md"
    sweep = session("sigmoid focal loss")
    sweep["benchmarks"][0]["extra_info"] |= {"table": "negatives", "shape": "N=10,000"}
    (state / "one" / "benchmarks.json").write_text(json.dumps(sweep))
    old = tmp_path / "results" / "a-gpu" / "old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    write_results(state, target)
    assert "(a-gpu/time-against-logits.png)" in target.read_text()
    assert (tmp_path / "results" / "a-gpu" / "time-against-logits.png").stat().st_size
    assert not old.exists()


def test_sessions_become_one(tmp_path):
    for name, facts in (
        ("one", {"left_out": [1], "not_measured": {"a": "no GPU"}}),
        ("two", {"left_out": [2], "not_measured": {"b": "no lvis"}, "determinism": {"different": 1}}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(session(name, **facts)))
    merged = merge([tmp_path / "one.json", tmp_path / "absent.json", tmp_path / "two.json"])
    assert merged is not None
    assert [entry["extra_info"]["contender"] for entry in merged["benchmarks"]] == ["one", "two"]
    assert merged["facts"]["left_out"] == [1, 2]
    assert merged["facts"]["not_measured"] == {"a": "no GPU", "b": "no lvis"}
    assert merged["facts"]["determinism"] == {"different": 1}
    assert merge([tmp_path / "absent.json"]) is None


def test_launches_of_a_gpu_in_their_order(tmp_path):
    launches = [{"name": f"kernel<{i}|x>", "start": 10.0 * i, "duration": 4.0} for i in range(50)]
    recorded = {"shape": "RPN, all anchors", "trace": "rpn.json.gz", "launches": launches, "operators": []}
    (tmp_path / "timeline.json").write_text(json.dumps([recorded]))
    lines = timeline_section(tmp_path)
    assert "50 launches in 494 µs, of which the GPU works 200 µs." in lines
    assert "| 2 | kernel<1/x> | 10.0 | 4.0 |" in lines
    assert lines[-1] == "The 10 others are in the trace."
    assert sum(line.startswith("| ") for line in lines) == 41


def test_the_trained_detector_s_ap(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps({"AP": 0.188, "AP50": 0.588, "oLRP": 0.846}))
    assert training_section(tmp_path)[-3:] == ["| AP | AP50 | oLRP |", "|---|---|---|", "| 18.8 | 58.8 | 84.6 |"]
