"""The benchmark report: goals judged by their worst figure, tables that hide nothing, all of it from the JSON alone."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from contenders import BUCKETED, COMPILED_FOCAL, FOCAL, GRAPH, LOOP, OURS
from goals import GOALS, goals_table
from report import write_report
from segments import ALONE, ONE, TOGETHER, segments_table
from segments import SHAPE as SEGMENTS
from segments import TABLE as SEGMENTS_TABLE
from session import Session, milliseconds, read_session, significant
from tables import evidence_table, head_tables, memory_table, step_table, sweep_table

STAGES = ("initialisation", "early", "late")
KINDS = {OURS: "exact", LOOP: "exact", BUCKETED: "approximate", FOCAL: "pointwise", COMPILED_FOCAL: "pointwise"}
SIZES = {"RPN, all anchors": (1_070_160, 160), "ATSS / PAA": (21_401_500, 1500), "LVIS R-CNN": (4_800_460, 460)}


def case(table: str, shape: str, stage: str, contender: str, seconds: float, **extra: Any) -> dict[str, Any]:
    logits, positives = SIZES.get(
        shape, (1_000_100, int(shape.split("=")[-1].replace(",", "")) if "=" in shape else 100)
    )
    extra = {"table": table, "shape": shape, "stage": stage, "contender": contender, "kind": KINDS[contender]} | extra
    extra |= {"logits": logits, "positives": positives}
    if KINDS[contender] != "pointwise" and table != "memory":
        extra = {"error": 0.04 if contender == BUCKETED else 1e-7, "value_error": 1e-8} | extra
    return {"stats": {"median": seconds, "rounds": 5}, "extra_info": {"bandwidth_share": 0.6} | extra}


def session_of(device: str = "cuda") -> dict[str, Any]:
    """A JSON as bench/ writes it: ours takes 1 ms, the loop 600, the bucketed method 55, focal loss 20, compiled 2."""
    seconds = {OURS: 1e-3, LOOP: 0.6, BUCKETED: 0.055, FOCAL: 0.02, COMPILED_FOCAL: 2e-3}
    host = {"host": 2e-4} if device == "cuda" else {}
    benchmarks = [
        case("head", shape, stage, name, seconds[name], peak_mib=12.0, **host)
        for shape in SIZES
        for stage in STAGES
        for name in KINDS
    ]
    if device == "cuda":
        replay = {"table": "head", "shape": "RPN, all anchors", "contender": GRAPH, "kind": "exact", "host": 1e-5}
        replay |= {"error": 1e-7, "value_error": 1e-8}
        benchmarks += [
            {"stats": {"median": 3e-5, "rounds": 5}, "extra_info": {"stage": stage, **replay}} for stage in STAGES
        ]
    for name, taken in ((ONE, 1e-3), (ALONE, 0.013), (TOGETHER, 1.5e-3)):
        extra = {"table": SEGMENTS_TABLE, "shape": SEGMENTS, "contender": name}
        benchmarks.append({"stats": {"median": taken, "rounds": 15}, "extra_info": extra})
    for table, shapes in (("positives", ("P=5", "P=500")), ("negatives", ("N=10,000", "N=1,000,000"))):
        benchmarks += [
            case(table, shape.replace(",", ""), "early", name, seconds[name]) for shape in shapes for name in KINDS
        ]
    images, focal = "R50-FPN, 4 images of 1333 x 800", "focal loss, the same anchors"
    for setting, contender, baseline, taken, share in (
        (images, "RS Faster R-CNN", "sampled cross-entropy", 0.11, 0.01),
        (images, "sampled cross-entropy", "sampled cross-entropy", 0.1, None),
        (images, "RS with the per-positive loop", "sampled cross-entropy", 0.7, 0.8),
        (f"ATSS, {images}", "RS-ATSS", focal, 0.202, 0.008),
        (f"ATSS, {images}", focal, focal, 0.2, None),
    ):
        extra = {"table": "step", "setting": setting, "contender": contender, "baseline": baseline, "peak_mib": 9000.0}
        extra |= {} if share is None else {"loss_share": share}
        benchmarks.append({"stats": {"median": taken, "rounds": 9}, "extra_info": extra})
    evidence = {"registers": 40, "spilled": 0, "stack": 0, "shared": 512, "instructions": 300, "target": "cuda 90"}
    return {
        "machine_info": {
            "device": "A device",
            "device_type": device,
            "python_version": "3.12.1",
            "torch": "2.14.1",
            "triton": "3.8.0",
            "torchvision": None,
            "threads": 2,
            "copy_bandwidth": 3e12,
        },
        "commit": "abc1234",
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": benchmarks,
        "facts": {
            "left_out": [],
            "refused": [],
            "cross_checks": [{"difference": 2e-15}],
            "not_measured": {},
            "determinism": {"repeats": 100, "different": 1, "contender": OURS},
            "static_evidence": [
                {"kernel": "count_kernel", "variant": "smooth", **evidence},
                {"kernel": "count_kernel", "variant": "hard", **evidence, "registers": 36},
            ],
        },
    }


@pytest.fixture
def written() -> dict[str, Any]:
    return session_of()


def load(written: dict[str, Any], tmp_path: Path) -> Session:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(written))
    return read_session(path)


def row(lines: list[str], start: str) -> str:
    (found,) = [line for line in lines if line.startswith(f"| {start}")]
    return found


def test_goals_reached(written, tmp_path):
    lines = goals_table(load(written, tmp_path))
    goals = [line for line in lines if line.startswith("|")][2:]
    assert len(goals) == len(GOALS)
    for_a_cpu = sum(goal.device == "CPU" for goal in GOALS)
    assert sum("reached" in line for line in goals) == len(GOALS) - for_a_cpu
    assert sum("not measured: needs a CPU" in line for line in goals) == for_a_cpu
    assert "| 1.01 x: reached |" in row(lines, "RS-ATSS R50 step: time / step")
    assert "| 0.8 %: reached |" in row(lines, "RS-ATSS R50 step: time in")
    assert "| 1.00 x: reached |" in row(lines, "RS-ATSS R50 step: peak memory")
    assert "| 600 x: reached |" in row(lines, "RPN, all anchors: per-positive loop / rst")
    assert "| 0.05 x: reached |" in row(lines, "LVIS R-CNN: rst / sigmoid focal loss")
    assert "| 0.05 x: reached |" in row(lines, "ATSS / PAA: rst / sigmoid focal loss |")
    assert "| 0.5 x: reached |" in row(lines, "ATSS / PAA: rst / sigmoid focal loss, compiled")
    assert "| 0.2 ms: reached |" in row(lines, "RPN, all anchors: host time")
    assert "| at most 0.05 ms | 0.01 to 0.03 ms: reached |" in row(lines, "RPN, all anchors: replay")
    assert "| 1.50 x: reached |" in row(lines, "DETR, 13 rankings: one call / one ranking")
    assert "| 60.0 %: reached |" in row(lines, "ATSS / PAA: share of the copy bandwidth")
    assert "| 1: reached |" in row(lines, "distinct outcomes in 100 repeats")
    assert "4.0e-02" in lines[-1]


@pytest.mark.parametrize(
    ("shape", "contender", "seconds", "start", "said"),
    [
        ("RPN, all anchors", LOOP, 0.049, "RPN, all anchors: per", "49.0 to 600 x: **missed**"),
        ("ATSS / PAA", BUCKETED, 0.04, "ATSS / PAA: bucketed", "40.0 to 55.0 x: **missed**"),
        ("LVIS R-CNN", FOCAL, 0.8e-3, "LVIS R-CNN: rst", "0.05 to 1.25 x: **missed**"),
        (
            "ATSS / PAA",
            COMPILED_FOCAL,
            0.9e-3,
            "ATSS / PAA: rst / sigmoid focal loss, comp",
            "0.5 to 1.11 x: **missed**",
        ),
        ("RPN, all anchors", GRAPH, 0.06e-3, "RPN, all anchors: replay", "0.01 to 0.06 ms: **missed**"),
    ],
)
def test_the_worst_stage_decides(written, tmp_path, shape, contender, seconds, start, said):
    for entry in written["benchmarks"]:
        extra = entry["extra_info"]
        if (extra.get("shape"), extra.get("stage"), extra["contender"]) == (shape, "late", contender):
            entry["stats"]["median"] = seconds
    assert said in row(goals_table(load(written, tmp_path)), start)


def test_a_goal_for_one_stage_looks_at_no_other(written, tmp_path):
    for entry in written["benchmarks"]:
        if entry["extra_info"].get("stage") != "initialisation" and entry["extra_info"]["contender"] == LOOP:
            entry["stats"]["median"] = 1e-6
    assert "600 x: reached" in row(goals_table(load(written, tmp_path)), "ATSS / PAA, initialisation")


def test_what_needs_another_device_is_not_claimed(tmp_path):
    lines = goals_table(load(session_of("cpu"), tmp_path))
    loop = row(lines, "RPN, all anchors: per")
    assert "not measured: needs a GPU (on this CPU: 600 x)" in loop
    assert "reached" not in loop
    assert "not measured in this session" in row(lines, "P 2,000, N 1 M: bucketed")


@pytest.mark.parametrize(("error", "said"), [(3e-3, "3e-03"), (float("nan"), "nan")])
def test_a_refused_contender_misses_the_goal_and_shows_no_time(written, tmp_path, error, said):
    place = {"table": "head", "shape": "ATSS / PAA", "stage": "late", "contender": LOOP}
    written["facts"]["refused"].append({**place, "error": error, "value_error": 0.0})
    written["benchmarks"] = [
        entry for entry in written["benchmarks"] if any(entry["extra_info"].get(key) != place[key] for key in place)
    ]
    session = load(written, tmp_path)
    assert ": **missed**" in row(goals_table(session), "gradient error of every exact")
    table = head_tables(session)
    section = table[table.index("### ATSS / PAA: 21,401,500 logits, 1,500 positives") :]
    assert next(line for line in section if LOOP in line).split("|")[4].strip() == f"refused: error {said}"


def test_head_table_has_medians_ratios_errors_and_costs(written, tmp_path):
    written["benchmarks"][1]["stats"]["rounds"] = 1
    table = head_tables(load(written, tmp_path))
    cells = [cell.strip() for cell in next(line for line in table if LOOP in line).split("|")[1:-1]]
    assert cells == [LOOP, "600 (600) once", "600 (600)", "600 (600)", "0.2", "1.0e-07", "12.0", "60 %"]
    ours = [cell.strip() for cell in next(line for line in table if OURS in line).split("|")[1:-1]]
    assert ours[1] == "1.00", "no ratio to itself"
    assert [cell.strip() for cell in next(line for line in table if FOCAL in line).split("|")][6] == "–"
    replay = next(line for line in table if GRAPH in line)
    assert "| 0.03 (0.03) | 0.03 (0.03) | 0.03 (0.03) | 0.01 |" in replay


def test_a_cpu_has_no_column_for_host_time(tmp_path):
    on_gpu, on_cpu = (head_tables(load(session_of(device), tmp_path)) for device in ("cuda", "cpu"))
    assert "host, ms" in on_gpu[3]
    assert "host" not in on_cpu[3]
    assert len({line.count("|") for line in on_cpu[3:6]}) == 1


def test_several_rankings_in_one_call(written, tmp_path):
    lines = segments_table(load(written, tmp_path))
    assert row(lines, TOGETHER) == f"| {TOGETHER} | 1.50 | 1.50 | 0.115 |"
    assert row(lines, ONE) == f"| {ONE} | 1.00 | 1.00 | 0.0769 |"
    written["benchmarks"] = [
        entry for entry in written["benchmarks"] if entry["extra_info"]["contender"] not in (TOGETHER, ONE)
    ]
    place = {"table": SEGMENTS_TABLE, "shape": SEGMENTS, "stage": "", "contender": TOGETHER}
    written["facts"]["left_out"].append({**place, "reason": "no such argument"})
    session = load(written, tmp_path)
    assert row(segments_table(session), TOGETHER) == f"| {TOGETHER} | – | – | – |"
    assert segments_table(session)[-1] == f"Left out: {TOGETHER}: no such argument."
    assert "not measured in this session" in row(goals_table(session), "DETR, 13 rankings: one call / one ranking")
    written["benchmarks"] = []
    assert segments_table(load(written, tmp_path)) == ["", "Not measured in this session."]


def test_what_was_left_out_is_said_with_its_reason(written, tmp_path):
    place = {"table": "head", "shape": "ATSS / PAA", "contender": LOOP}
    written["facts"]["left_out"] = [{**place, "stage": stage, "reason": "too long"} for stage in ("early", "late")]
    written["benchmarks"] = [
        entry
        for entry in written["benchmarks"]
        if not (
            entry["extra_info"].get("shape") == "ATSS / PAA"
            and entry["extra_info"]["contender"] == LOOP
            and entry["extra_info"]["stage"] != "initialisation"
        )
    ]
    table = head_tables(load(written, tmp_path))
    assert "Left out: per-positive loop (early, late): too long." in table
    section = table[table.index("### ATSS / PAA: 21,401,500 logits, 1,500 positives") :]
    assert next(line for line in section if LOOP in line).count("left out") == 2


def test_sweeps_memory_steps_and_evidence(written, tmp_path):
    session = load(written, tmp_path)
    assert row(sweep_table(session, "positives"), BUCKETED) == "| bucketed | 55.0 (55.0) | 55.0 (55.0) |"
    assert row(sweep_table(session, "positives"), "its gradient error") == "| its gradient error | 4.0e-02 | 4.0e-02 |"
    assert row(memory_table(session), "LVIS R-CNN") == "| LVIS R-CNN | 12.0 | 12.0 | 12.0 | 12.0 | 12.0 |"
    assert row(step_table(session), "RS Faster R-CNN") == "| RS Faster R-CNN | 110 | 1.10 | 1.0 % | 9,000 |"
    assert row(step_table(session), "sampled") == "| sampled cross-entropy (baseline) | 100 | 1.00 | – | 9,000 |"
    assert (
        row(evidence_table(session), "count_kernel") == "| count_kernel | cuda 90 | 2 | 36 to 40 | 0 | 0 | 512 | 300 |"
    )


def test_report_is_written_from_the_json_alone(written, tmp_path):
    source = tmp_path / "results.json"
    source.write_text(json.dumps(written))
    write_report(source, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Benchmarks: A device\n")
    for fact in ("commit abc1234", "torch 2.14.1", "2026-01-02", "3,000.0 GB/s", "between two events"):
        assert fact in text
    plots = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(plots) == 5
    assert all((tmp_path / plot).stat().st_size < 60_000 for plot in plots)


def test_report_of_a_part_of_the_benchmarks(written, tmp_path):
    part = copy.deepcopy(written)
    part["benchmarks"] = part["benchmarks"][:1]
    part["facts"] = {"left_out": [], "refused": [], "cross_checks": [], "not_measured": {"rst tiled": "needs a GPU"}}
    source = tmp_path / "part.json"
    source.write_text(json.dumps(part))
    write_report(source, tmp_path / "part.md")
    text = (tmp_path / "part.md").read_text()
    assert "Not measured: rst tiled (needs a GPU)." in text
    assert "Not measured in this session." in text


@pytest.mark.parametrize(
    ("value", "said"), [(1234.5, "1,234"), (99.96, "100"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_three_digits(value, said):
    assert significant(value) == said
    assert milliseconds(value / 1e3) == said
