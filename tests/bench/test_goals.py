"""Every goal finds what it names: in a session in which everything is measured, none is left without a value."""

from typing import Any

import pytest
from contenders import CONTENDERS
from goals import GOALS, Goal
from judging import CHECK, COCO_BOXES, EVALUATION, JUDGING_GOALS, OURS, PYCOCOTOOLS
from segments import RUNS, TABLE
from segments import SHAPE as SEGMENTS
from session import STAGES, Record, Session
from shapes import SHAPES
from test_training_step import DETECTORS, SETTINGS


def everything() -> Session:
    """One record for each shape, stage and contender, each setting and contender, and the evaluators of the goals."""
    measured: dict[str, Any] = {"bandwidth_share": 0.5, "peak_mib": 10.0, "error": 0.0, "value_error": 0.0}
    measured["host"] = 0.001
    heads = [
        {"table": "head", "shape": shape, "stage": stage, "contender": name, "kind": contender.kind, **measured}
        for shape in SHAPES
        for stage in STAGES
        for name, contender in CONTENDERS.items()
    ]
    steps = [
        {"table": "step", "setting": setting, "contender": name, "baseline": detector.baseline, "loss_share": 0.01}
        | {"peak_mib": 9000.0}
        for setting, chosen in SETTINGS.items()
        for detector in [DETECTORS[chosen.detector]]
        for name in detector.contenders
    ]
    evaluation = [{"table": EVALUATION, "shape": COCO_BOXES, "contender": name} for name in (OURS, PYCOCOTOOLS)]
    check = [{"table": CHECK, "shape": "annotations", "contender": "rst data check"}]
    segments = [{"table": TABLE, "shape": SEGMENTS, "contender": name} for name in RUNS]
    records = [Record(1.0, 3, extra) for extra in [*heads, *segments, *steps, *evaluation, *check]]
    facts = {"left_out": [], "refused": [], "determinism": {"different": 1}}
    return Session({"device_type": "cuda"}, "abc1234", "2026-01-02", records, facts)


@pytest.mark.parametrize("goal", [*GOALS, *JUDGING_GOALS], ids=lambda goal: goal.title)
def test_what_a_goal_names_exists(goal: Goal):
    assert list(goal.values(everything()))


def test_every_detector_s_baseline_is_one_of_its_contenders():
    assert all(detector.baseline in detector.contenders for detector in DETECTORS.values())
