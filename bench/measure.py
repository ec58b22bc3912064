"""One contender on one ranking: checked against the truth, then timed, with its bytes moved and its peak memory."""

import time
from functools import lru_cache
from typing import Any

import pytest
from contenders import CONTENDERS, LOOP, exact_outcome, loop_difference, relative_error, value_error
from device import CLOCK, DEVICE, ON_GPU, before_round, copy_bandwidth, host_seconds, peak_bytes, wall_seconds
from peers import Outcome
from shapes import Sample, Shape, Stage, sample

BYTES_PER_LOGIT = 12  # float32: read to count, read to scatter, its gradient written
EXACT = 1e-5  # bound on an exact contender: relative L1 error of its gradient, absolute error of its values
CROSS_CHECKED_PAIRS = 400_000_000  # up to here the truth is compared with the loop in float64
CROSS_CHECKED = 1e-9
SLOW = 2.0  # seconds; a slower contender is timed once
BUDGET = 1.5  # seconds of all rounds together, otherwise
ROUNDS = (3, 25 if ON_GPU else 7)

Facts = dict[str, Any]  # what a session stores in its JSON beside its timings


@lru_cache(maxsize=1)  # consecutive tests differ in the contender alone
def prepared(shape: Shape, stage: Stage) -> tuple[Sample, Outcome, float | None]:
    """A ranking on the device, its float64 truth there, and the truth's distance from the float64 loop or None."""
    data = sample(shape, stage, DEVICE)
    truth = exact_outcome(data)
    difference = loop_difference(data, truth) if data.pairs <= CROSS_CHECKED_PAIRS else None
    assert difference is None or difference < CROSS_CHECKED, f"the truth is {difference:.1e} from the loop in float64"
    return data, truth, difference


def measure(benchmark: Any, facts: Facts, table: str, label: str, shape: Shape, stage: Stage, name: str) -> None:
    """Times the contender `name` on the shape called `label` in a table, or stores in `facts` why it was left out.

    Fails for a contender of kind "exact" that differs from the truth.
    """
    place = {"table": table, "shape": label, "stage": stage, "contender": name}
    contender = CONTENDERS[name]
    data, truth, difference = prepared(shape, stage)
    if difference is not None and name == LOOP:
        facts["cross_checks"].append({**place, "difference": difference})
    benchmark.group = f"{table}: {label}, {stage}"
    reason = contender.obstacle(data)
    if reason:
        facts["left_out"].append({**place, "reason": reason})
        pytest.skip(f"{name} left out: {reason}")

    begin = time.perf_counter()
    outcome = contender.run(data)
    float(outcome.ranking)  # wait for it
    once = time.perf_counter() - begin
    information: dict[str, Any] = {
        **place,
        "kind": contender.kind,
        "logits": len(data.logits),
        "positives": len(data.sparse.index),
        "bytes": BYTES_PER_LOGIT * len(data.logits),
        "copy_bandwidth": copy_bandwidth(),
    }
    if contender.kind != "pointwise":
        error, off = relative_error(outcome, truth), value_error(outcome, truth)
        information.update(error=error, value_error=off)
        if contender.kind == "exact" and not (error <= EXACT and off <= EXACT):
            facts["refused"].append({**place, "error": error, "value_error": off})
            benchmark.skipped = True  # else pytest-benchmark warns of an unused fixture
            pytest.fail(f"{name} is not reported: gradient {error:.1e} and values {off:.1e} from the truth")
    del outcome
    if ON_GPU:  # the first run compiled the kernels
        if not contender.static:
            information["peak_mib"] = peak_bytes(lambda: contender.run(data).gradient) / 2**20
        information["wall"] = once = wall_seconds(lambda: contender.run(data))
        information["host"] = host_seconds(lambda: contender.run(data))
    rounds = 1 if once > SLOW else max(ROUNDS[0], min(ROUNDS[1], int(BUDGET / once)))
    benchmark.extra_info.update(information)
    benchmark.pedantic(contender.run, args=(data,), setup=before_round, rounds=rounds)
    if benchmark.stats is not None:  # None with --benchmark-disable
        seconds = benchmark.stats.stats.median
        benchmark.extra_info["bandwidth_share"] = information["bytes"] / seconds / copy_bandwidth()


def timed_on_device(function: Any) -> Any:
    """Makes a benchmark use the device's clock."""
    return pytest.mark.benchmark(timer=CLOCK)(function)
